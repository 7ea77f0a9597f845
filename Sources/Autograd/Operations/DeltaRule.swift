import Kernels
import Tensors

extension Tape {
    /// The gated delta rule over a chunk, see `DeltaRule`; `B`, `T` and the other sizes are those of `shape`.
    ///
    /// Keeps its inputs and one state for every 64 rows; the rest is recomputed in the backward pass.
    /// - Parameters:
    ///   - q: `[B·T, Hk·K]`. - k: `[B·T, n·Hk·K]`. - v: `[B·T, n·Hv·V]`. - beta: `[B·T, n·Hv]`.
    ///   - logDecay: `[B·T, Hv]`, ≤ 0, in nats; nil: no decay.
    ///   - state: `[B, Hv, K, V]`; nil: zero.
    /// - Returns: output `[B·T, Hv·V]` and the state after the chunk.
    public func deltaRule(
        q: Variable, k: Variable, v: Variable, beta: Variable, logDecay: Variable?, state: Variable?,
        _ shape: DeltaRuleShape
    ) -> (output: Variable, state: Variable) {
        let rows = shape.batch * shape.tokens
        let widths = [
            shape.keyHeads * shape.keyWidth, shape.steps * shape.keyHeads * shape.keyWidth,
            shape.steps * shape.valueHeads * shape.valueWidth, shape.steps * shape.valueHeads,
        ]
        require(
            zip([q, k, v, beta], widths).allSatisfy { $0.shape == Shape(rows, $1) },
            "deltaRule: q \(q.shape), k \(k.shape), v \(v.shape), beta \(beta.shape); expected \(rows) rows of \(widths)"
        )
        let y = context.tensor(Shape(rows, shape.valueHeads * shape.valueWidth))
        let final = context.tensor(Shape(shape.batch, shape.valueHeads, shape.keyWidth, shape.valueWidth))
        let states = isRecording ? context.tensor(Shape(shape.chunkCount, final.count)) : nil
        let inputs = DeltaRuleInputs(
            q: q.value.pointer, k: k.value.pointer, v: v.value.pointer, beta: beta.value.pointer,
            logDecay: logDecay?.value.pointer.constant)
        DeltaRule.forward(
            inputs, state: state?.value.pointer.constant, output: y.pointer, finalState: final.pointer,
            states: states?.pointer, shape: shape, threads: threads)

        let result = output(y, from: q, k, v, beta, logDecay, state)
        let stateOut = Variable(final, needsGradient: result.needsGradient)
        recordRaw {
            let dState = stateOut.takeGradient()
            let arrived = result.takeGradient()
            guard arrived != nil || dState != nil else { return }
            let dy = arrived ?? self.context.zeros(y.shape)
            func gradient(of x: Variable) -> Tensor { self.context.tensor(x.shape) }
            let (dq, dk, dv, dBeta) = (gradient(of: q), gradient(of: k), gradient(of: v), gradient(of: beta))
            let dLogDecay = logDecay.map(gradient)
            let dStateIn = self.context.tensor(final.shape)
            DeltaRule.backward(
                inputs, dOutput: dy.pointer, dFinalState: dState?.pointer.constant, states: states!.pointer,
                dq: dq.pointer, dk: dk.pointer, dv: dv.pointer, dBeta: dBeta.pointer,
                dLogDecay: dLogDecay?.pointer, dState: dStateIn.pointer, shape: shape, threads: self.threads)
            for (x, dx) in [(q, dq), (k, dk), (v, dv), (beta, dBeta)] { x.accumulate(dx, self.context) }
            if let dLogDecay { logDecay?.accumulate(dLogDecay, self.context) }
            state?.accumulate(dStateIn, self.context)
        }
        return (result, stateOut)
    }
}
