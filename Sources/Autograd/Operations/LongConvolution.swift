import Kernels
import Tensors

extension Tape {
    /// Causal depth-wise convolution with a kernel that is computed from parameters, see `LongConvolution`.
    ///
    /// - Parameters:
    ///   - x: `[B·T, C]`. - past: `[B, (L−1)·C]`, the rows before the chunk; nil is zero. - kernel: `[L, C]`.
    /// - Returns: `[B·T, C]`, and the past of the next chunk.
    public func longConvolution(
        _ x: Variable, past: Variable?, kernel: Variable, batch: Int, time: Int
    ) -> (output: Variable, past: Variable) {
        let (taps, channels) = (kernel.shape[0], kernel.shape[1])
        require(
            x.shape == Shape(batch * time, channels),
            "longConvolution: x \(x.shape), kernel \(kernel.shape); expected [\(batch * time), \(channels)]")
        let convolution = LongConvolution(batch: batch, time: time, channels: channels, taps: taps)
        let history = past?.value
        let y = context.tensor(x.shape)
        convolution.forward(
            x.value.pointer, past: history?.pointer.constant, kernel: kernel.value.pointer, into: y.pointer,
            threads: threads)
        let next = context.tensor(Shape(batch, (taps - 1) * channels))
        convolution.carry(x.value.pointer, past: history?.pointer.constant, into: next.pointer)

        let output = self.output(y, from: x, past, kernel)
        let carryOut = Variable(next, needsGradient: output.needsGradient)
        recordRaw { [context, threads] in
            let dNext = carryOut.takeGradient()
            var dy = output.takeGradient()
            if dy == nil, dNext != nil { dy = context.zeros(x.shape) }
            guard let dy else { return }
            let dx = context.tensor(x.shape)
            let dPast = past.map { context.tensor($0.shape) }
            let dKernel = context.tensor(kernel.shape)
            convolution.backward(
                x.value.pointer, past: history?.pointer.constant, kernel: kernel.value.pointer, dy: dy.pointer,
                into: dx.pointer, dPast: dPast?.pointer, dKernel: dKernel.pointer, threads: threads)
            if let dNext {
                convolution.addCarryGradient(dNext.pointer, to: dx.pointer, dPast: dPast?.pointer)
            }
            x.accumulate(dx, context)
            kernel.accumulate(dKernel, context)
            if let dPast { past?.accumulate(dPast, context) }
        }
        return (output, carryOut)
    }
}
