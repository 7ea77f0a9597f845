import Kernels
import Tensors

/// One direction of a two-sided memory: where in the shared variable its keys and queries start, and its gates `[B·T, H]`.
public struct MemorySide {
    let side: MatrixMemoryShape.Side
    let keys, queries: Int
    let logDecay, valueScale: Variable

    public init(
        _ side: MatrixMemoryShape.Side, keys: Int, queries: Int, logDecay: Variable, valueScale: Variable
    ) {
        (self.side, self.keys, self.queries) = (side, keys, queries)
        (self.logDecay, self.valueScale) = (logDecay, valueScale)
    }
}

extension Tape {
    /// A token's own values, and what the memories of the tokens before and after it answer, arXiv 2407.09941 without copies:
    /// a side reads its tokens where they lie, in its direction, and adds to the sum.
    ///
    ///     y_t = x_t ⊙ (W x_t + c)_head + Σ_sides scale·q_tᵀS_{t∓1},   S_t = f_t S_{t∓1} + u_t k_t x_tᵀ
    ///
    /// - Parameters:
    ///   - x: `[B·T, C]`; values are the first `H·V` columns.
    ///   - weight: `W [H, H·V]`. - bias: `c [H]`.
    ///   - shape: of both sides, `side` aside.
    /// - Returns: `[B·T, H·V]`.
    public func twoSidedMemory(
        _ x: Variable, sides: [MemorySide], weight: ParameterUse, bias: ParameterUse,
        _ shape: (MatrixMemoryShape.Side) -> MatrixMemoryShape
    ) -> Variable {
        let shapes = sides.map { side in
            var shape = shape(side.side)
            (shape.queryStride, shape.keyStride, shape.valueStride) = (x.value.width, x.value.width, x.value.width)
            return shape
        }
        let (first, rows, stride) = (shapes[0], x.value.rows, x.value.width)
        let (heads, width) = (first.headCount, first.headCount * first.valueWidth)
        require(
            weight.shape == Shape(heads, width) && bias.shape.count == heads && rows == first.batch * first.time,
            "twoSidedMemory '\(weight.parameter.name)': x \(x.shape), W \(weight.shape), \(heads) heads of \(first.valueWidth)"
        )
        let y = context.tensor(Shape(rows, width))
        let factors = context.tensor(Shape(rows, heads))
        GEMM.multiply(
            x.value.pointer, lda: stride, weight.value.pointer, transposeB: true, ldb: width, m: rows, n: heads,
            k: width, accumulate: false, bias: bias.value.pointer.constant, into: factors.pointer, ldc: heads,
            threads: threads)
        ScaledHeads.forward(
            x.value.pointer, rowStride: stride, factors: factors.pointer, into: y.pointer, rows: rows, heads: heads,
            width: first.valueWidth, threads: threads)
        // A lone token has neighbours on neither side.
        let isAlone = first.time == 1
        let kept = isRecording && !isAlone ? shapes.map { context.tensor(Shape($0.keptCount)) } : []
        let spare = context.tensor(Shape(first.batch, heads, first.keyWidth, first.valueWidth))
        func inputs(_ side: MemorySide) -> MatrixMemoryKernel.Inputs {
            let base = x.value.pointer
            var inputs = MatrixMemoryKernel.Inputs(query: base + side.queries, key: base + side.keys, value: base)
            inputs.logDecay = side.logDecay.value.pointer.constant
            inputs.valueScale = side.valueScale.value.pointer.constant
            return inputs
        }
        for (i, side) in sides.enumerated() where !isAlone {
            var results = MatrixMemoryKernel.Results(output: y.pointer)
            results.addsOutput = true
            results.state = spare.pointer
            results.kept = isRecording ? kept[i].pointer : nil
            MatrixMemoryKernel.forward(inputs(side), into: results, shape: shapes[i], threads: threads)
        }

        let result = output(y, from: x, hasParameters: true)
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            // What no side reads: the columns of one side in the row that it leaves out, and the values in that row.
            for b in 0..<first.batch {
                for row in [b * first.time, (b + 1) * first.time - 1] {
                    (dx.pointer + row * stride).update(repeating: 0, count: stride)
                }
            }
            for (i, side) in sides.enumerated() {
                let dDecay = self.context.zeros(side.logDecay.shape)
                let dScale = self.context.zeros(side.valueScale.shape)
                if !isAlone {
                    var gradients = MatrixMemoryKernel.Gradients(
                        dOutput: dy.pointer.constant, kept: kept[i].pointer, dQuery: dx.pointer + side.queries,
                        dKey: dx.pointer + side.keys, dValue: dx.pointer)
                    gradients.addsValue = i > 0
                    (gradients.dLogDecay, gradients.dValueScale) = (dDecay.pointer, dScale.pointer)
                    MatrixMemoryKernel.backward(inputs(side), gradients, shape: shapes[i], threads: self.threads)
                }
                side.logDecay.accumulate(dDecay, self.context)
                side.valueScale.accumulate(dScale, self.context)
            }
            let dFactors = self.context.tensor(factors.shape)
            ScaledHeads.backward(
                dy.pointer, x: x.value.pointer, rowStride: stride, factors: factors.pointer, addingTo: dx.pointer,
                dFactors: dFactors.pointer, rows: rows, heads: heads, width: first.valueWidth, threads: self.threads)
            GEMM.multiply(
                dFactors.pointer, lda: heads, weight.value.pointer, ldb: width, m: rows, n: width, k: heads,
                accumulate: true, into: dx.pointer, ldc: stride, threads: self.threads)
            x.accumulate(dx, self.context)
            self.postpone { [context = self.context, threads = self.threads] in
                let (dWeight, isFresh) = weight.writableGradient(context)
                GEMM.multiply(
                    dFactors.pointer, transposeA: true, lda: heads, x.value.pointer, ldb: stride, m: heads, n: width,
                    k: rows, accumulate: !isFresh, into: dWeight.pointer, ldc: width, threads: threads)
            }
            self.postponeColumnSums(dFactors, into: bias)
        }
        return result
    }
}
