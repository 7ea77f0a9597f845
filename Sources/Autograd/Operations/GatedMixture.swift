import Kernels
import Tensors

extension Tape {
    /// `x + σ(gate) ⊙ (silu(a + b) − x)`, equal shapes.
    public func highway(_ x: Variable, gate: Variable, _ a: Variable, _ b: Variable) -> Variable {
        let y = context.tensor(x.shape)
        require(
            [gate, a, b].allSatisfy { $0.value.count == y.count },
            "highway: \(x.shape), \(gate.shape), \(a.shape), \(b.shape)")
        GatedMixture.highway(
            x.value.pointer, gate: gate.value.pointer, a: a.value.pointer, b: b.value.pointer, into: y.pointer,
            count: y.count, threads: threads)
        let result = output(y, from: x, gate, a, b)
        record(result) { dy in
            let (dx, dGate) = (self.context.tensor(x.shape), self.context.tensor(x.shape))
            let dSum = self.context.tensor(x.shape)
            GatedMixture.highwayBackward(
                dy.pointer, x: x.value.pointer, gate: gate.value.pointer, a: a.value.pointer, b: b.value.pointer,
                dx: dx.pointer, dGate: dGate.pointer, dSum: dSum.pointer, count: dy.count, threads: self.threads)
            x.accumulate(dx, self.context)
            gate.accumulate(dGate, self.context)
            a.accumulate(dSum, self.context)
            b.accumulate(dSum, self.context)
        }
        return result
    }

    /// `σ(firstGate) ⊙ first + σ(secondGate) ⊙ second`, equal shapes.
    public func gatedSum(
        _ first: Variable, gate firstGate: Variable, _ second: Variable, gate secondGate: Variable
    ) -> Variable {
        let y = context.tensor(first.shape)
        require(
            [firstGate, second, secondGate].allSatisfy { $0.value.count == y.count },
            "gatedSum: \(first.shape), \(firstGate.shape), \(second.shape), \(secondGate.shape)")
        GatedMixture.gatedSum(
            first.value.pointer, gate: firstGate.value.pointer, second.value.pointer, gate: secondGate.value.pointer,
            into: y.pointer, count: y.count, threads: threads)
        let result = output(y, from: first, firstGate, second, secondGate)
        record(result) { dy in
            let gradients = (0..<4).map { _ in self.context.tensor(first.shape) }
            GatedMixture.gatedSumBackward(
                dy.pointer, first: first.value.pointer, gate: firstGate.value.pointer, second: second.value.pointer,
                gate: secondGate.value.pointer, dFirst: gradients[0].pointer, dFirstGate: gradients[1].pointer,
                dSecond: gradients[2].pointer, dSecondGate: gradients[3].pointer, count: dy.count,
                threads: self.threads)
            for (x, gradient) in zip([first, firstGate, second, secondGate], gradients) {
                x.accumulate(gradient, self.context)
            }
        }
        return result
    }

    /// `softmax(x Mᵀ) M`: what a bank of learned slots answers to `x`.
    ///
    /// - Parameters:
    ///   - x: `[R, D]`. - bank: `M [slots, D]`.
    public func lookUp(_ x: Variable, bank: ParameterUse) -> Variable {
        let (rows, width, slots) = (x.value.rows, x.value.width, bank.shape[0])
        require(bank.shape[1] == width, "lookUp '\(bank.parameter.name)': x is \(x.shape), bank \(bank.shape)")
        let weights = context.tensor(Shape(rows, slots))
        GEMM.multiply(
            x.value.pointer, lda: width, bank.value.pointer, transposeB: true, ldb: width, m: rows, n: slots,
            k: width, accumulate: false, into: weights.pointer, ldc: slots, threads: threads)
        Softmax.forward(weights.pointer, into: weights.pointer, rows: rows, width: slots, threads: threads)
        let y = context.tensor(x.shape)
        GEMM.multiply(
            weights.pointer, lda: slots, bank.value.pointer, ldb: width, m: rows, n: width, k: slots,
            accumulate: false, into: y.pointer, ldc: width, threads: threads)
        let result = output(y, from: x, hasParameters: true)
        record(result) { dy in
            let slopes = self.context.tensor(weights.shape)
            GEMM.multiply(
                dy.pointer, lda: width, bank.value.pointer, transposeB: true, ldb: width, m: rows, n: slots,
                k: width, accumulate: false, into: slopes.pointer, ldc: slots, threads: self.threads)
            Softmax.backward(
                slopes.pointer, y: weights.pointer, into: slopes.pointer, rows: rows, width: slots,
                threads: self.threads)
            if x.needsGradient {
                let (dx, isFresh) = x.writableGradient(self.context)
                GEMM.multiply(
                    slopes.pointer, lda: slots, bank.value.pointer, ldb: width, m: rows, n: width, k: slots,
                    accumulate: !isFresh, into: dx.pointer, ldc: width, threads: self.threads)
            }
            self.postpone { [context = self.context, threads = self.threads] in
                let (dBank, isFresh) = bank.writableGradient(context)
                for (left, right, accumulate) in [(weights, dy, !isFresh), (slopes, x.value, true)] {
                    GEMM.multiply(
                        left.pointer, transposeA: true, lda: slots, right.pointer, ldb: width, m: slots, n: width,
                        k: rows, accumulate: accumulate, into: dBank.pointer, ldc: width, threads: threads)
                }
            }
        }
        return result
    }
}
