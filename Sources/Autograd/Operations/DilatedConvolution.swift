import Kernels
import Tensors

extension Tape {
    /// Causal depth-wise convolution whose taps lie `dilation` tokens apart, then silu:
    /// `y_t = silu(b + Σ_k w_k ⊙ x_{t − (W−1−k)·dilation})`.
    ///
    /// `dilation` neighbouring tokens are one row of as many times the channels to the short convolution's kernel; a sequence
    /// that does not fill its last row is extended by zeros.
    /// - Parameters:
    ///   - x: `[B·T, C]`.
    ///   - past: the `(W − 1)·dilation` rows before the chunk, `[B, (W−1)·dilation, C]`; nil: zeros.
    ///   - weight: `[C, 1, W]`, the last tap for the current token. - bias: `[C]`.
    /// - Returns: `[B·T, C]`, and the past of the next chunk.
    public func dilatedConvolution(
        _ x: Variable, past: Variable?, weight: ParameterUse, bias: ParameterUse, dilation: Int, batch: Int, time: Int
    ) -> (output: Variable, past: Variable) {
        let (channels, taps) = (x.value.width, weight.shape[2])
        require(
            weight.shape[0] == channels && x.value.rows == batch * time && dilation > 0,
            "dilatedConvolution '\(weight.parameter.name)': x is \(x.shape), weight \(weight.shape), B \(batch), T \(time)"
        )
        let rows = (time + dilation - 1) / dilation, wide = dilation * channels
        let shape = ShortConvolutionShape(batch: batch, time: rows, channels: wide, taps: taps)
        // The carry counts tokens, not rows.
        let tokens = ShortConvolutionShape(
            batch: batch, time: time, channels: channels, taps: (taps - 1) * dilation + 1)

        // [taps, dilation·C] and [dilation·C]: each copy of the channels has the same taps.
        let byTap = context.tensor(Shape(taps, wide)), shifts = context.tensor(Shape(wide))
        // Pointers before the loops: a look-up through a parameter's use costs more than the copy.
        let (from, fromBias) = (weight.value.pointer, bias.value.pointer),
            (to, toBias) = (byTap.pointer, shifts.pointer)
        for i in 0..<wide {
            for tap in 0..<taps { to[tap * wide + i] = from[i % channels * taps + tap] }
            toBias[i] = fromBias[i % channels]
        }
        let input = resized(x.value, batch: batch, from: time * channels, to: rows * wide)
        let history = past?.value
        let full = context.tensor(Shape(batch * rows, wide))
        ShortConvolutionKernel.forward(
            input.pointer, past: history?.pointer.constant, weight: byTap.pointer, bias: shifts.pointer, silu: true,
            into: full.pointer, shape: shape, threads: threads)
        let y = resized(full, batch: batch, from: rows * wide, to: time * channels).reshaped(x.shape)
        let next = context.tensor(Shape(batch, tokens.pastRows, channels))
        ShortConvolutionKernel.carry(
            x.value.pointer, past: history?.pointer.constant, into: next.pointer, shape: tokens)

        let result = output(y, from: x, past, hasParameters: true)
        let carryOut = Variable(next, needsGradient: result.needsGradient)
        recordRaw {
            let dNext = carryOut.takeGradient()
            let arrived = result.takeGradient()
            guard arrived != nil || dNext != nil else { return }
            let dy = self.resized(
                arrived ?? self.context.zeros(y.shape), batch: batch, from: time * channels, to: rows * wide)
            let dPre = self.context.tensor(full.shape), dRows = self.context.tensor(full.shape)
            let dPast = past.map { self.context.tensor($0.shape) }
            ShortConvolutionKernel.slope(
                dy.pointer, x: input.pointer, past: history?.pointer.constant, weight: byTap.pointer,
                bias: shifts.pointer, into: dPre.pointer, shape: shape, threads: self.threads)
            ShortConvolutionKernel.inputGradient(
                dPre.pointer, weight: byTap.pointer, into: dRows.pointer, dPast: dPast?.pointer, shape: shape,
                threads: self.threads)
            let dx = self.resized(dRows, batch: batch, from: rows * wide, to: time * channels).reshaped(x.shape)
            if let dNext {
                ShortConvolutionKernel.carryGradient(
                    dNext.pointer, addingTo: dx.pointer, dPast: dPast?.pointer, shape: tokens)
            }
            x.accumulate(dx, self.context)
            if let dPast { past?.accumulate(dPast, self.context) }
            self.postpone { [context = self.context, threads = self.threads] in
                let perCopy = context.zeros(Shape(taps, wide)), perShift = context.tensor(Shape(wide))
                ShortConvolutionKernel.weightGradient(
                    dPre.pointer, x: input.pointer, past: history?.pointer.constant, addingTo: perCopy.pointer,
                    shape: shape, threads: threads)
                Reductions.columnSums(
                    dPre.pointer, rows: batch * rows, columns: wide, accumulate: false, into: perShift.pointer,
                    threads: threads)
                let dWeight = weight.gradient(context).pointer, dBias = bias.gradient(context).pointer
                let (copies, shifts) = (perCopy.pointer, perShift.pointer)
                for i in 0..<wide {
                    for tap in 0..<taps { dWeight[i % channels * taps + tap] += copies[tap * wide + i] }
                    dBias[i % channels] += shifts[i]
                }
            }
        }
        return (result, carryOut)
    }

    /// Every sample's first elements, cut off or extended by zeros; the same tensor where the sizes agree.
    private func resized(_ x: Tensor, batch: Int, from old: Int, to new: Int) -> Tensor {
        if old == new { return x }
        let result = context.tensor(Shape(batch, new))
        for b in 0..<batch {
            let target = result.pointer + b * new
            target.update(from: x.pointer + b * old, count: min(old, new))
            if new > old { (target + old).update(repeating: 0, count: new - old) }
        }
        return result
    }
}
