import Kernels
import Tensors

extension Tape {
    /// Features of every head's row: `x [R, H·d]` to `[R, H·d']`.
    public func featureMap(_ map: FeatureMaps.Map, _ x: Variable, headWidth: Int) -> Variable {
        let rows = x.value.count / headWidth
        require(x.value.width % headWidth == 0, "featureMap: x is \(x.shape); expected a multiple of \(headWidth)")
        let y = context.tensor(Shape(x.value.rows, x.value.width / headWidth * map.featureWidth(headWidth)))
        FeatureMaps.forward(
            map, x.value.pointer, into: y.pointer, rows: rows, width: headWidth, threads: threads)
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            FeatureMaps.backward(
                map, dy.pointer, y: y.pointer, into: dx.pointer, rows: rows, width: headWidth, threads: self.threads)
            x.accumulate(dx, self.context)
        }
        return result
    }

    /// `(x W₁ᵀ + b₁) ⊙ (x W₂ᵀ + b₂)` of every head's row, `x [R, H·d]` to `[R, H·n]`, the same maps `W [n, d]`, `b [n]` for all.
    ///
    /// Keeps `x` and both factors.
    public func linearProduct(
        _ x: Variable, _ maps: [(weight: ParameterUse, bias: ParameterUse)]
    ) -> Variable {
        let (output, input) = (maps[0].weight.shape[0], maps[0].weight.shape[1])
        let rows = x.value.count / input
        require(
            maps.count == 2 && maps.allSatisfy { $0.weight.shape == Shape(output, input) }
                && x.value.width % input == 0,
            "linearProduct: x is \(x.shape), maps \(maps.map(\.weight.shape)); expected two of one shape, heads of their inputs"
        )
        let weight = context.tensor(Shape(2 * output, input))
        let bias = context.tensor(Shape(2 * output))
        for (index, map) in maps.enumerated() {
            (weight.pointer + index * output * input).update(from: map.weight.value.pointer, count: output * input)
            (bias.pointer + index * output).update(from: map.bias.value.pointer, count: output)
        }
        let packed = PackedMatrix(k: input, n: 2 * output)
        packed.pack(weight.pointer, transposed: true, ld: input, threads: threads)
        let factors = context.tensor(Shape(rows, 2 * output))
        let y = context.tensor(Shape(x.value.rows, x.value.width / input * output))
        LinearProduct.forward(
            x.value.pointer, rows: rows, weights: packed, bias: bias.pointer, factors: factors.pointer, into: y.pointer,
            threads: threads)
        let result = self.output(y, from: x, hasParameters: true)
        record(result) { dy in
            let packed = PackedMatrix(k: 2 * output, n: input)
            packed.pack(weight.pointer, transposed: false, ld: input, threads: self.threads)
            let (dx, isFresh) = x.writableGradient(self.context)
            LinearProduct.backward(
                dy.pointer, rows: rows, weights: packed, factors: factors.pointer, accumulate: !isFresh,
                into: dx.pointer, threads: self.threads)
            self.postpone { [context = self.context, threads = self.threads] in
                // The narrower side is the one that costs more to pack.
                let dWeight = context.tensor(Shape(input, 2 * output))
                GEMM.multiply(
                    x.value.pointer, transposeA: true, lda: input, factors.pointer, ldb: 2 * output, m: input,
                    n: 2 * output, k: rows, accumulate: false, into: dWeight.pointer, ldc: 2 * output, threads: threads)
                let dBias = context.tensor(bias.shape)
                Reductions.columnSums(
                    factors.pointer, rows: rows, columns: 2 * output, accumulate: false, into: dBias.pointer,
                    threads: threads)
                for (index, map) in maps.enumerated() {
                    let (from, to) = (dWeight.pointer + index * output, map.weight.gradient(context).pointer)
                    for column in 0..<input {
                        for row in 0..<output { to[row * input + column] += from[column * 2 * output + row] }
                    }
                    Elementwise.add(
                        dBias.pointer + index * output, to: map.bias.gradient(context).pointer, count: output,
                        threads: threads)
                }
            }
        }
        return result
    }

    /// Softmax of the scores so far: `weight_t = e^{x_t − z_t}` and `logDecay_t = z_{t−1} − z_t`, `z` the running log-sum-exp.
    ///
    /// - Parameters:
    ///   - x: `[B·T, C]`. - past: `z` before the chunk, `[B, C]`; nil: nothing so far.
    /// - Returns: weights and log-decays `[B·T, C]`, `z` after the chunk.
    public func runningSoftmax(
        _ x: Variable, past: Variable?, batch: Int, time: Int
    ) -> (weight: Variable, logDecay: Variable, z: Variable) {
        let width = x.value.width
        let weight = context.tensor(x.shape)
        let decay = context.tensor(x.shape)
        let z = context.tensor(Shape(batch, width))
        SoftmaxGate.forward(
            x.value.pointer, past: past?.value.pointer.constant, weight: weight.pointer, logDecay: decay.pointer,
            z: z.pointer, batch: batch, time: time, width: width, threads: threads)
        let weightOut = output(weight, from: x, past)
        let decayOut = Variable(decay, needsGradient: weightOut.needsGradient)
        let last = Variable(z, needsGradient: weightOut.needsGradient)
        recordRaw {
            let gradients = [weightOut.takeGradient(), decayOut.takeGradient()]
            let dz = last.takeGradient()
            guard dz != nil || gradients.contains(where: { $0 != nil }) else { return }
            let known = gradients.map { $0 ?? self.context.zeros(x.shape) }
            let dx = self.context.tensor(x.shape)
            let dPast = past.map { self.context.tensor($0.shape) }
            SoftmaxGate.backward(
                dWeight: known[0].pointer, dLogDecay: known[1].pointer, dz: dz?.pointer.constant,
                weight: weight.pointer, logDecay: decay.pointer, into: dx.pointer, dPast: dPast?.pointer, batch: batch,
                time: time, width: width, threads: self.threads)
            x.accumulate(dx, self.context)
            if let dPast { past?.accumulate(dPast, self.context) }
        }
        return (weightOut, decayOut, last)
    }

    /// The same elements in another shape.
    public func reshaped(_ x: Variable, _ shape: Shape) -> Variable {
        let result = output(x.value.reshaped(shape), from: x)
        record(result) { dy in x.accumulate(dy, self.context) }
        return result
    }
}
