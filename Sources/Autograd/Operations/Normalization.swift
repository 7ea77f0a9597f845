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

    /// A norm over groups of channels with an optional gate, see `GatedNormShape`.
    ///
    /// - Parameters:
    ///   - x: `[R, groupCount·groupWidth]`. - gate: alike; nil when the shape has none.
    ///   - weight: `[groupWidth]` or `[groupCount·groupWidth]`. - addsOne: the norm is scaled by 1 + weight.
    public func gatedNorm(
        _ x: Variable, gate: Variable?, weight: ParameterUse, addsOne: Bool = false, _ shape: GatedNormShape
    )
        -> Variable
    {
        let rows = x.value.rows
        require(
            x.value.width == shape.width && weight.shape.count == shape.weightCount,
            "gatedNorm '\(weight.parameter.name)': x is \(x.shape), weight \(weight.shape); expected \(shape)")
        var scale = weight.value
        if addsOne {
            scale = context.tensor(weight.shape)
            scale.fill(1)
            Elementwise.add(weight.value.pointer, to: scale.pointer, count: scale.count, threads: threads)
        }
        let y = context.tensor(x.shape)
        let mean = context.tensor(Shape(rows, shape.groupCount))
        let rstd = context.tensor(Shape(rows, shape.groupCount))
        GatedNormKernel.forward(
            x.value.pointer, gate: gate?.value.pointer.constant, weight: scale.pointer, into: y.pointer,
            mean: mean.pointer, rstd: rstd.pointer, rows: rows, shape: shape, threads: threads)
        let result = output(y, from: x, gate, hasParameters: true)
        record(result) { [scale] dy in
            let dx = self.context.tensor(x.shape)
            let dGate = gate.map { self.context.tensor($0.shape) }
            let panels = self.context.tensor(Shape(GatedNormKernel.panelCount(rows: rows), shape.weightCount))
            GatedNormKernel.backward(
                dy.pointer, x: x.value.pointer, gate: gate?.value.pointer.constant, weight: scale.pointer,
                mean: mean.pointer, rstd: rstd.pointer, into: dx.pointer, dGate: dGate?.pointer,
                dWeightPanels: panels.pointer, rows: rows, shape: shape, threads: self.threads)
            x.accumulate(dx, self.context)
            if let dGate { gate?.accumulate(dGate, self.context) }
            self.postponeColumnSums(panels, into: weight)
        }
        return result
    }

    /// `weight gradient += Σ_rows`, later.
    func postponeColumnSums(_ rows: Tensor, into weight: ParameterUse) {
        postpone { [context, threads] in
            let (gradient, isFresh) = weight.writableGradient(context)
            Reductions.columnSums(
                rows.pointer, rows: rows.rows, columns: rows.width, accumulate: !isFresh, into: gradient.pointer,
                threads: threads)
        }
    }

    /// `x / √(Σ x² + ε)` over neighbouring groups of `width` channels of `x [R, C]`, `C` a multiple of `width`.
    public func l2Norm(_ x: Variable, width: Int, epsilon: Float = 1e-6) -> Variable {
        let rows = x.value.count / width
        require(x.value.width % width == 0, "l2Norm: x is \(x.shape); expected a multiple of \(width) channels")
        let y = context.tensor(x.shape)
        let rstd = context.tensor(Shape(rows))
        Norms.l2(
            x.value.pointer, epsilon: epsilon, into: y.pointer, rstd: rstd.pointer, rows: rows, width: width,
            threads: threads)
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            Norms.l2Backward(
                dy.pointer, y: y.pointer, rstd: rstd.pointer, into: dx.pointer, rows: rows, width: width,
                threads: self.threads)
            x.accumulate(dx, self.context)
        }
        return result
    }
}
