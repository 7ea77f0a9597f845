import Kernels
import Tensors

extension Tape {
    /// Matrix memory with a forget gate per key channel over a chunk: `S_t = diag(f_t) S_{t−1} + k_t v_tᵀ`,
    /// `o_t = scale·q_tᵀ S_t`.
    ///
    /// Keeps the state before every 64 tokens; scores are recomputed in the backward pass.
    /// - Parameters:
    ///   - query: `[B·T, H·K]`. - key: `[B·T, Hk·K]`. - value: `[B·T, Hk·V]`.
    ///   - logDecay: `log f ≤ 0`, `[B·T, Hk·K]`.
    ///   - past: `[B, H, K, V]`; nil is zero.
    /// - Returns: output `[B·T, H·V]` and the state after the chunk. arXiv 2312.06635, section 4.
    public func channelMemory(
        query: Variable, key: Variable, value: Variable, logDecay: Variable, past: Variable?,
        _ shape: ChannelMemoryShape
    ) -> (output: Variable, state: Variable) {
        let (batch, rows) = (shape.batch, shape.batch * shape.time)
        let keyWidth = shape.keyHeadCount * shape.keyWidth
        require(
            query.shape == Shape(rows, shape.headCount * shape.keyWidth) && key.shape == Shape(rows, keyWidth)
                && value.shape == Shape(rows, shape.keyHeadCount * shape.valueWidth) && logDecay.shape == key.shape,
            "channelMemory: q \(query.shape), k \(key.shape), v \(value.shape), decay \(logDecay.shape); expected \(shape)"
        )
        let y = context.tensor(Shape(rows, shape.headCount * shape.valueWidth))
        let state = context.tensor(Shape(batch, shape.headCount, shape.keyWidth, shape.valueWidth))
        let result = output(y, from: query, key, value, logDecay, past)
        let kept = result.needsGradient ? context.tensor(Shape(shape.keptCount)) : nil
        let inputs = ChannelMemoryKernel.Inputs(
            query: query.value.pointer, key: key.value.pointer, value: value.value.pointer,
            logDecay: logDecay.value.pointer, state: past?.value.pointer.constant)
        ChannelMemoryKernel.forward(
            inputs, into: y.pointer, state: state.pointer, kept: kept?.pointer, shape: shape, threads: threads)
        let next = Variable(state, needsGradient: result.needsGradient)
        guard let kept else { return (result, next) }
        recordRaw {
            let dState = next.takeGradient()
            var dy = result.takeGradient()
            guard dy != nil || dState != nil else { return }
            if dy == nil { dy = self.context.zeros(y.shape) }
            let variables = [query, key, value, logDecay]
            let gradients = variables.map { self.context.tensor($0.shape) }
            let dPast = past.map { self.context.tensor($0.shape) }
            ChannelMemoryKernel.backward(
                dy!.pointer, dState: dState?.pointer.constant, inputs, kept: kept.pointer,
                into: ChannelMemoryKernel.Gradients(
                    query: gradients[0].pointer, key: gradients[1].pointer, value: gradients[2].pointer,
                    logDecay: gradients[3].pointer, state: dPast?.pointer),
                shape: shape, threads: self.threads)
            for (variable, gradient) in zip(variables, gradients) { variable.accumulate(gradient, self.context) }
            if let dPast { past?.accumulate(dPast, self.context) }
        }
        return (result, next)
    }
}
