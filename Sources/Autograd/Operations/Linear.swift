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

    /// `x Wᵀ + b` whose columns go to several variables: the rows of `weight` in pieces of `widths`, in order.
    ///
    /// - Parameters:
    ///   - x: `[R, in]`. - weight: `[Σ widths, in]`. - bias: `[Σ widths]`.
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
            let (row, offset) = (first, first * input)
            first += width
            let y = context.tensor(Shape(rows, width))
            GEMM.multiply(
                x.value.pointer, lda: input, weight.value.pointer + offset, transposeB: true, ldb: input, m: rows,
                n: width, k: input, accumulate: false, bias: bias.map { UnsafePointer($0.value.pointer + row) },
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
                            into: bias.gradient(context).pointer + row, threads: threads)
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
        postpone { [context, threads] in
            let (rows, input, output) = (x.rows, x.width, weight.shape[0])
            let (dw, isFresh) = weight.writableGradient(context)
            GEMM.multiply(
                dy.pointer, transposeA: true, lda: output, x.pointer, ldb: input, m: output, n: input, k: rows,
                accumulate: !isFresh, into: dw.pointer, ldc: input, threads: threads)
            if let bias {
                let (db, isFresh) = bias.writableGradient(context)
                Reductions.columnSums(
                    dy.pointer, rows: rows, columns: output, accumulate: !isFresh, into: db.pointer, threads: threads)
            }
        }
    }
}
