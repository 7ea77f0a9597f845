import Kernels
import Tensors

extension Tape {
    /// `y = x Wᵀ + b`.
    ///
    /// - Parameters:
    ///   - x: `[R, in]`.
    ///   - weight: `[out, in]`. - bias: `[out]`.
    /// - Returns: `[R, out]`.
    public func linear(_ x: Variable, weight: ParameterUse, bias: ParameterUse?) -> Variable {
        let (rows, input, output) = (x.value.rows, x.value.width, weight.shape[0])
        require(weight.shape[1] == input, "linear '\(weight.parameter.name)': x is \(x.shape), weight \(weight.shape)")
        let y = context.tensor(Shape(rows, output))
        GEMM.multiply(
            x.value.pointer, lda: input, weight.value.pointer, transposeB: true, ldb: input, m: rows, n: output,
            k: input, accumulate: false, bias: bias.map { UnsafePointer($0.value.pointer) }, into: y.pointer,
            ldc: output, threads: threads)
        let result = self.output(y, from: x, hasParameters: true)
        record(result) { dy in
            self.multiplyGradient(dy, weight: weight, into: x)
            self.postponeLinearWeightGradient(dy, x.value, weight: weight, bias: bias)
        }
        return result
    }

    /// `y = x Wᵀ + b + s · (x Aᵀ) Bᵀ`: a matrix with a low-rank correction that is never formed (arXiv 2106.09685).
    ///
    /// Keeps `x` and `x Aᵀ`.
    /// - Parameters:
    ///   - x: `[R, in]`.
    ///   - weight: `[out, in]`. - bias: `[out]`.
    ///   - down: `A [r, in]`. - up: `B [out, r]`. - scale: `s`.
    /// - Returns: `[R, out]`.
    public func linear(
        _ x: Variable, weight: ParameterUse, bias: ParameterUse?, down: ParameterUse, up: ParameterUse, scale: Float
    ) -> Variable {
        let (rows, input, output, rank) = (x.value.rows, x.value.width, weight.shape[0], down.shape[0])
        require(
            weight.shape[1] == input && down.shape[1] == input && up.shape.dimensions == [output, rank],
            "linear '\(weight.parameter.name)': x is \(x.shape), weight \(weight.shape), A \(down.shape), B \(up.shape)"
        )
        let narrow = context.tensor(Shape(rows, rank))
        GEMM.multiply(
            x.value.pointer, lda: input, down.value.pointer, transposeB: true, ldb: input, m: rows, n: rank, k: input,
            accumulate: false, into: narrow.pointer, ldc: rank, threads: threads)
        Elementwise.scale(narrow.pointer, by: scale, into: narrow.pointer, count: narrow.count, threads: threads)
        let y = context.tensor(Shape(rows, output))
        GEMM.multiply(
            x.value.pointer, lda: input, weight.value.pointer, transposeB: true, ldb: input, m: rows, n: output,
            k: input, accumulate: false, bias: bias.map { UnsafePointer($0.value.pointer) }, into: y.pointer,
            ldc: output, threads: threads)
        GEMM.multiply(
            narrow.pointer, lda: rank, up.value.pointer, transposeB: true, ldb: rank, m: rows, n: output, k: rank,
            accumulate: true, into: y.pointer, ldc: output, threads: threads)
        let result = self.output(y, from: x, hasParameters: true)
        record(result) { dy in
            let dNarrow = self.context.tensor(Shape(rows, rank))
            GEMM.multiply(
                dy.pointer, lda: output, up.value.pointer, ldb: rank, m: rows, n: rank, k: output, accumulate: false,
                into: dNarrow.pointer, ldc: rank, threads: self.threads)
            Elementwise.scale(
                dNarrow.pointer, by: scale, into: dNarrow.pointer, count: dNarrow.count, threads: self.threads)
            self.multiplyGradient(dy, weight: weight, into: x)
            self.multiplyGradient(dNarrow, weight: down, into: x)
            self.postponeLinearWeightGradient(dy, x.value, weight: weight, bias: bias)
            self.postponeLinearWeightGradient(dNarrow, x.value, weight: down, bias: nil)
            self.postponeLinearWeightGradient(dy, narrow, weight: up, bias: nil)
        }
        return result
    }

    /// `x Wᵀ + b` whose columns go to several variables: the rows of `weight` in pieces of `widths`, in order.
    ///
    /// - Parameters:
    ///   - x: `[R, in]`.
    ///   - weight: `[Σ widths, in]`. - bias: `[Σ widths]`.
    /// - Returns: `[R, widths[i]]` each.
    public func linear(
        _ x: Variable, weight: ParameterUse, bias: ParameterUse? = nil, splitting widths: [Int]
    ) -> [Variable] {
        let (rows, input) = (x.value.rows, x.value.width)
        require(
            weight.shape[1] == input && weight.shape[0] == widths.reduce(0, +),
            "linear '\(weight.parameter.name)': x is \(x.shape), weight \(weight.shape), pieces \(widths)")
        var first = 0
        return widths.map { width in
            let (start, offset) = (first, first * input)
            first += width
            let y = context.tensor(Shape(rows, width))
            GEMM.multiply(
                x.value.pointer, lda: input, weight.value.pointer + offset, transposeB: true, ldb: input, m: rows,
                n: width, k: input, accumulate: false, bias: bias.map { UnsafePointer($0.value.pointer + start) },
                into: y.pointer, ldc: width, threads: threads)
            let result = output(y, from: x, hasParameters: true)
            record(result) { dy in
                if x.needsGradient {
                    let (dx, isFresh) = x.writableGradient(self.context)
                    GEMM.multiply(
                        dy.pointer, lda: width, weight.value.pointer + offset, ldb: input, m: rows, n: input,
                        k: width, accumulate: !isFresh, into: dx.pointer, ldc: input, threads: self.threads)
                }
                self.postpone { [context = self.context, threads = self.threads] in
                    let dw = weight.gradient(context)
                    GEMM.multiply(
                        dy.pointer, transposeA: true, lda: width, x.value.pointer, ldb: input, m: width, n: input,
                        k: rows, accumulate: true, into: dw.pointer + offset, ldc: input, threads: threads)
                    if let bias {
                        Reductions.columnSums(
                            dy.pointer, rows: rows, columns: width, accumulate: true,
                            into: bias.gradient(context).pointer + start, threads: threads)
                    }
                }
            }
            return result
        }
    }

    /// `dx += dy W`.
    func multiplyGradient(_ dy: Tensor, weight: ParameterUse, into x: Variable) {
        guard x.needsGradient else { return }
        let (rows, input, output) = (x.value.rows, x.value.width, weight.shape[0])
        let (dx, isFresh) = x.writableGradient(context)
        GEMM.multiply(
            dy.pointer, lda: output, weight.value.pointer, ldb: input, m: rows, n: input, k: output,
            accumulate: !isFresh, into: dx.pointer, ldc: input, threads: threads)
    }

    /// `dW += dyᵀ x`, `db += Σ dy`, later.
    func postponeLinearWeightGradient(_ dy: Tensor, _ x: Tensor, weight: ParameterUse, bias: ParameterUse?) {
        postpone {
            self.accumulateLinearWeightGradient(dy.pointer, x.pointer, rows: x.rows, weight: weight, bias: bias)
        }
    }

    /// The same at once, for `dy [rows, out]` and `x [rows, in]`.
    func accumulateLinearWeightGradient(
        _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, rows: Int, weight: ParameterUse, bias: ParameterUse?
    ) {
        let (output, input) = (weight.shape[0], weight.shape[1])
        let (dw, isFresh) = weight.writableGradient(context)
        GEMM.multiply(
            dy, transposeA: true, lda: output, x, ldb: input, m: output, n: input, k: rows, accumulate: !isFresh,
            into: dw.pointer, ldc: input, threads: threads)
        if let bias {
            let (db, isFresh) = bias.writableGradient(context)
            Reductions.columnSums(
                dy, rows: rows, columns: output, accumulate: !isFresh, into: db.pointer, threads: threads)
        }
    }
}
