import Kernels
import Tensors

extension Tape {
    /// `a + b`, equal shapes. Both receive the same gradient buffer.
    public func add(_ a: Variable, _ b: Variable) -> Variable {
        require(a.value.count == b.value.count, "add: \(a.shape) and \(b.shape)")
        let y = context.tensor(a.shape)
        Elementwise.add(a.value.pointer, b.value.pointer, into: y.pointer, count: y.count, threads: threads)
        let result = output(y, from: a, b)
        record(result) { dy in
            a.accumulate(dy, self.context)
            b.accumulate(dy, self.context)
        }
        return result
    }

    /// The same value several times over. Gradients of the copies are each complete before they are added, first to
    /// last, so that the sum has the same bits wherever the copies go.
    public func copies(_ x: Variable, count: Int) -> [Variable] {
        let copies = (0..<count).map { _ in output(x.value, from: x) }
        recordRaw {
            for copy in copies { if let gradient = copy.takeGradient() { x.accumulate(gradient, self.context) } }
        }
        return copies
    }

    /// `silu(gate) ⊙ up`, element-wise (arXiv 2002.05202).
    public func swiGLU(gate: Variable, up: Variable) -> Variable {
        let y = context.tensor(gate.shape)
        Activations.swiGLU(
            gate: gate.value.pointer, up: up.value.pointer, into: y.pointer, count: y.count, threads: threads)
        let result = output(y, from: gate, up)
        record(result) { dy in
            let dGate = self.context.tensor(gate.shape)
            let dUp = self.context.tensor(up.shape)
            Activations.swiGLUBackward(
                dy.pointer, gate: gate.value.pointer, up: up.value.pointer, dGate: dGate.pointer, dUp: dUp.pointer,
                count: dy.count, threads: self.threads)
            gate.accumulate(dGate, self.context)
            up.accumulate(dUp, self.context)
        }
        return result
    }

    /// `σ(gate) ⊙ up`, element-wise (arXiv 1612.08083).
    public func glu(gate: Variable, up: Variable) -> Variable {
        require(gate.value.count == up.value.count, "glu: \(gate.shape) and \(up.shape)")
        let y = context.tensor(up.shape)
        Activations.glu(
            gate: gate.value.pointer, up: up.value.pointer, into: y.pointer, count: y.count, threads: threads)
        let result = output(y, from: gate, up)
        record(result) { dy in
            let dGate = self.context.tensor(gate.shape)
            let dUp = self.context.tensor(up.shape)
            Activations.gluBackward(
                dy.pointer, gate: gate.value.pointer, up: up.value.pointer, dGate: dGate.pointer, dUp: dUp.pointer,
                count: dy.count, threads: self.threads)
            gate.accumulate(dGate, self.context)
            up.accumulate(dUp, self.context)
        }
        return result
    }

    /// `a ⊙ b`, equal shapes.
    public func multiply(_ a: Variable, _ b: Variable) -> Variable {
        require(a.value.count == b.value.count, "multiply: \(a.shape) and \(b.shape)")
        let y = context.tensor(a.shape)
        Elementwise.multiply(a.value.pointer, b.value.pointer, into: y.pointer, count: y.count, threads: threads)
        let result = output(y, from: a, b)
        record(result) { dy in
            for (input, other) in [(a, b), (b, a)] where input.needsGradient {
                let gradient = self.context.tensor(a.shape)
                Elementwise.multiply(
                    dy.pointer, other.value.pointer, into: gradient.pointer, count: dy.count, threads: self.threads)
                input.accumulate(gradient, self.context)
            }
        }
        return result
    }

    /// `factor · x`.
    public func scale(_ x: Variable, by factor: Float) -> Variable {
        let y = context.tensor(x.shape)
        Elementwise.scale(x.value.pointer, by: factor, into: y.pointer, count: y.count, threads: threads)
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            Elementwise.scale(dy.pointer, by: factor, into: dx.pointer, count: dy.count, threads: self.threads)
            x.accumulate(dx, self.context)
        }
        return result
    }

    /// `x ⊙ w` with one factor for each column, `x [R, D]`, `w [D]`.
    public func scaleColumns(_ x: Variable, by weight: ParameterUse) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        require(
            weight.shape.count == width, "scaleColumns '\(weight.parameter.name)': x is \(x.shape), \(weight.shape)")
        func scaled(_ x: Tensor) -> Tensor {
            let y = context.tensor(x.shape)
            for row in 0..<rows {
                Elementwise.multiply(
                    x.pointer + row * width, weight.value.pointer, into: y.pointer + row * width, count: width,
                    threads: threads)
            }
            return y
        }
        let result = output(scaled(x.value), from: x, hasParameters: true)
        record(result) { dy in
            if x.needsGradient { x.accumulate(scaled(dy), self.context) }
            let dWeight = self.context.tensor(x.shape)
            Elementwise.multiply(
                dy.pointer, x.value.pointer, into: dWeight.pointer, count: dy.count, threads: self.threads)
            self.postponeColumnSums(dWeight, into: weight)
        }
        return result
    }

    /// Gaussian error linear unit (arXiv 1606.08415), erf or tanh form.
    public func gelu(_ x: Variable, tanhForm: Bool) -> Variable { activation(tanhForm ? .geluTanh : .gelu, x) }

    /// An element-wise nonlinearity.
    public func activation(_ activation: Activation, _ x: Variable) -> Variable {
        let y = context.tensor(x.shape)
        Activations.forward(activation, x.value.pointer, into: y.pointer, count: y.count, threads: threads)
        let result = output(y, from: x)
        let saved = activation.savesOutput ? y : x.value
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            Activations.backward(
                activation, dy.pointer, saved: saved.pointer, into: dx.pointer, count: dy.count, threads: self.threads)
            x.accumulate(dx, self.context)
        }
        return result
    }

    /// `cap · tanh(x / cap)`: `x` where it is small, within `±cap`.
    public func softCap(_ x: Variable, at cap: Float) -> Variable {
        let bent = context.tensor(x.shape)
        let y = context.tensor(x.shape)
        let count = y.count
        Elementwise.scale(x.value.pointer, by: 1 / cap, into: bent.pointer, count: count, threads: threads)
        Activations.forward(.tanh, bent.pointer, into: bent.pointer, count: count, threads: threads)
        Elementwise.scale(bent.pointer, by: cap, into: y.pointer, count: count, threads: threads)
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            Activations.backward(
                .tanh, dy.pointer, saved: bent.pointer, into: dx.pointer, count: count, threads: self.threads)
            x.accumulate(dx, self.context)
        }
        return result
    }

    /// `max(factor · log σ(x), floor)`: the logarithm of a forget gate. Gradients stop where the floor holds.
    public func logSigmoid(_ x: Variable, factor: Float = 1, floor: Float? = nil) -> Variable {
        let y = context.tensor(x.shape)
        Activations.logSigmoid(x.value.pointer, factor: factor, into: y.pointer, count: y.count, threads: threads)
        if let floor {
            for i in 0..<y.count where y.pointer[i] < floor { y.pointer[i] = floor }
        }
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            Activations.logSigmoidBackward(
                dy.pointer, x: x.value.pointer, factor: factor, into: dx.pointer, count: dy.count,
                threads: self.threads)
            if let floor {
                for i in 0..<dx.count where y.pointer[i] <= floor { dx.pointer[i] = 0 }
            }
            x.accumulate(dx, self.context)
        }
        return result
    }

    /// `[R, A]` and `[R, B]` side by side, `[R, A + B]`.
    public func concatenateColumns(_ a: Variable, _ b: Variable) -> Variable {
        let (rows, left, right) = (a.value.rows, a.value.width, b.value.width)
        require(b.value.rows == rows, "concatenateColumns: \(a.shape) and \(b.shape)")
        let y = context.tensor(Shape(rows, left + right))
        for row in 0..<rows {
            let target = y.pointer + row * (left + right)
            target.update(from: a.value.pointer + row * left, count: left)
            (target + left).update(from: b.value.pointer + row * right, count: right)
        }
        let result = output(y, from: a, b)
        record(result) { dy in
            let da = self.context.tensor(a.shape)
            let db = self.context.tensor(b.shape)
            for row in 0..<rows {
                let source = dy.pointer + row * (left + right)
                (da.pointer + row * left).update(from: source, count: left)
                (db.pointer + row * right).update(from: source + left, count: right)
            }
            a.accumulate(da, self.context)
            b.accumulate(db, self.context)
        }
        return result
    }
}
