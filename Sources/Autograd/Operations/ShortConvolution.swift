import Kernels
import Tensors

extension Tape {
    /// Depth-wise convolution over a chunk, optionally followed by silu (recomputed in the backward pass).
    ///
    /// - Parameters:
    ///   - x: `[B·T, C]`.
    ///   - past: the `W − 1` rows before the chunk, `[B, W−1, C]`; nil: zeros.
    ///   - weight: `[C, 1, W]`, as torch stores it. - bias: `[C]`.
    ///   - ahead: how far in front of the current token the last tap is; 0: causal.
    /// - Returns: `[B·T, C]`, and the past of the next chunk.
    public func shortConvolution(
        _ x: Variable, past: Variable?, weight: ParameterUse, bias: ParameterUse?, silu: Bool, ahead: Int = 0,
        batch: Int, time: Int
    ) -> (output: Variable, past: Variable) {
        let taps = weight.shape[2]
        let shape = ShortConvolutionShape(batch: batch, time: time, channels: x.value.width, taps: taps, ahead: ahead)
        require(
            weight.shape[0] == shape.channels && x.value.rows == batch * time,
            "shortConvolution '\(weight.parameter.name)': x is \(x.shape), weight \(weight.shape), B \(batch), T \(time)"
        )
        let byTap = transposed(weight.value, rows: shape.channels, columns: taps)
        let y = context.tensor(x.shape)
        let (rows, history) = (x.value, past?.value)
        ShortConvolutionKernel.forward(
            rows.pointer, past: history?.pointer.constant, weight: byTap.pointer,
            bias: bias?.value.pointer.constant, silu: silu, into: y.pointer, shape: shape, threads: threads)
        let next = context.tensor(Shape(batch, shape.pastRows, shape.channels))
        ShortConvolutionKernel.carry(rows.pointer, past: history?.pointer.constant, into: next.pointer, shape: shape)

        let result = output(y, from: x, past, hasParameters: true)
        let carryOut = Variable(next, needsGradient: result.needsGradient)
        recordRaw {
            let dNext = carryOut.takeGradient()
            let dy = result.takeGradient()
            guard dy != nil || dNext != nil else { return }
            let dx = self.context.tensor(x.shape)
            let dPast = past.map { self.context.tensor($0.shape) }
            if let dy {
                var dPre = dy
                if silu {
                    dPre = self.context.tensor(x.shape)
                    ShortConvolutionKernel.slope(
                        dy.pointer, x: rows.pointer, past: history?.pointer.constant, weight: byTap.pointer,
                        bias: bias?.value.pointer.constant, into: dPre.pointer, shape: shape, threads: self.threads)
                }
                ShortConvolutionKernel.inputGradient(
                    dPre.pointer, weight: byTap.pointer, into: dx.pointer, dPast: dPast?.pointer, shape: shape,
                    threads: self.threads)
                self.postponeShortConvolutionGradients(
                    dPre, rows, past: history, weight: weight, bias: bias, shape: shape)
            } else {
                dx.fill(0)
                dPast?.fill(0)
            }
            if let dNext {
                ShortConvolutionKernel.carryGradient(
                    dNext.pointer, addingTo: dx.pointer, dPast: dPast?.pointer, shape: shape)
            }
            x.accumulate(dx, self.context)
            if let dPast { past?.accumulate(dPast, self.context) }
        }
        return (result, carryOut)
    }

    private func postponeShortConvolutionGradients(
        _ dPre: Tensor, _ x: Tensor, past: Tensor?, weight: ParameterUse, bias: ParameterUse?,
        shape: ShortConvolutionShape
    ) {
        postpone { [context, threads] in
            let byTap = context.zeros(Shape(shape.taps, shape.channels))
            ShortConvolutionKernel.weightGradient(
                dPre.pointer, x: x.pointer, past: past?.pointer.constant, addingTo: byTap.pointer, shape: shape,
                threads: threads)
            let gradient = weight.gradient(context).pointer
            for channel in 0..<shape.channels {
                for tap in 0..<shape.taps {
                    gradient[channel * shape.taps + tap] += byTap.pointer[tap * shape.channels + channel]
                }
            }
        }
        if let bias { postponeColumnSums(dPre, into: bias) }
    }

    private func transposed(_ x: Tensor, rows: Int, columns: Int) -> Tensor {
        let result = context.tensor(Shape(columns, rows))
        let (from, to) = (x.pointer, result.pointer)
        for row in 0..<rows {
            for column in 0..<columns { to[column * rows + row] = from[row * columns + column] }
        }
        return result
    }
}
