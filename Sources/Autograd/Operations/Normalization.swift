import Kernels
import Tensors

extension Tape {
    /// `w ⊙ x / √(mean(x²) + ε)` over the last axis of `x [R, D]` (arXiv 1910.07467).
    public func rmsNorm(_ x: Variable, weight: ParameterUse, epsilon: Float) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        let y = context.tensor(x.shape)
        let rstd = context.tensor(Shape(rows))
        Norms.rms(
            x.value.pointer, weight: weight.value.pointer, epsilon: epsilon, into: y.pointer, rstd: rstd.pointer,
            rows: rows, width: width, threads: threads)
        let result = output(y, from: x, hasParameters: true)
        record(result) { dy in
            if x.needsGradient {
                let (dx, isFresh) = x.writableGradient(self.context)
                Norms.rmsInputGradient(
                    dy.pointer, x: x.value.pointer, weight: weight.value.pointer, rstd: rstd.pointer,
                    accumulate: !isFresh, into: dx.pointer, rows: rows, width: width, threads: self.threads)
            }
            self.postpone { [context = self.context, threads = self.threads] in
                Norms.rmsWeightGradient(
                    dy.pointer, x: x.value.pointer, rstd: rstd.pointer,
                    addingTo: weight.gradient(context).pointer, rows: rows, width: width, threads: threads)
            }
        }
        return result
    }

    /// `w ⊙ (x − mean) / √(var + ε) + b` over the last axis of `x [R, D]`, biased variance (arXiv 1607.06450).
    public func layerNorm(_ x: Variable, weight: ParameterUse, bias: ParameterUse, epsilon: Float) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        let y = context.tensor(x.shape)
        let mean = context.tensor(Shape(rows))
        let rstd = context.tensor(Shape(rows))
        Norms.layer(
            x.value.pointer, weight: weight.value.pointer, bias: bias.value.pointer, epsilon: epsilon,
            into: y.pointer, mean: mean.pointer, rstd: rstd.pointer, rows: rows, width: width, threads: threads)
        let result = output(y, from: x, hasParameters: true)
        record(result) { dy in
            if x.needsGradient {
                let (dx, isFresh) = x.writableGradient(self.context)
                Norms.layerInputGradient(
                    dy.pointer, x: x.value.pointer, weight: weight.value.pointer, mean: mean.pointer,
                    rstd: rstd.pointer, accumulate: !isFresh, into: dx.pointer, rows: rows, width: width,
                    threads: self.threads)
            }
            self.postpone { [context = self.context, threads = self.threads] in
                Norms.layerWeightGradient(
                    dy.pointer, x: x.value.pointer, mean: mean.pointer, rstd: rstd.pointer,
                    addingTo: weight.gradient(context).pointer, rows: rows, width: width, threads: threads)
                let (db, isFresh) = bias.writableGradient(context)
                Reductions.columnSums(
                    dy.pointer, rows: rows, columns: width, accumulate: !isFresh, into: db.pointer, threads: threads)
            }
        }
        return result
    }
}
