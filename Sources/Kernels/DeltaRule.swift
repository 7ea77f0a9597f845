import CKernels

// Legend: B samples, T tokens, n delta steps of a token, Hk key heads, Hv value heads, K key width, V value width.

/// Sizes of one call of the delta rule. Value head `h` uses query and key head `h·Hk/Hv`.
public struct DeltaRuleShape: Sendable, Hashable {
    public var batch: Int
    public var tokens: Int
    public var steps: Int
    public var keyHeads: Int
    public var valueHeads: Int
    public var keyWidth: Int
    public var valueWidth: Int
    /// Length of the queries once normalised, `K^(−½)` by default.
    public var scale: Float

    public init(
        batch: Int, tokens: Int, steps: Int = 1, keyHeads: Int, valueHeads: Int, keyWidth: Int, valueWidth: Int,
        scale: Float? = nil
    ) {
        (self.batch, self.tokens, self.steps) = (batch, tokens, steps)
        (self.keyHeads, self.valueHeads) = (keyHeads, valueHeads)
        (self.keyWidth, self.valueWidth) = (keyWidth, valueWidth)
        self.scale = scale ?? Float(1 / Double(keyWidth).squareRoot())
    }

    /// Most delta steps that a token can take.
    public static let maximumSteps = CK_DELTA_ROWS

    /// States kept for the backward pass, one before every chunk.
    public var chunkCount: Int {
        let chunk = ck_delta_chunk(steps)
        return (tokens + chunk - 1) / chunk
    }

    var stateCount: Int { keyWidth * valueWidth }

    func validate() {
        require(
            batch > 0 && tokens > 0 && keyWidth > 0 && valueWidth > 0,
            "DeltaRule: B \(batch), T \(tokens), K \(keyWidth), V \(valueWidth); expected all positive")
        require(
            1...Self.maximumSteps ~= steps, "DeltaRule: \(steps) steps; expected 1 to \(Self.maximumSteps)")
        require(
            keyHeads > 0 && valueHeads > 0 && valueHeads % keyHeads == 0,
            "DeltaRule: \(valueHeads) value heads on \(keyHeads) key heads; expected a multiple")
    }

    var kernelShape: ck_delta_shape {
        ck_delta_shape(
            tokens: tokens, steps: steps, key_width: keyWidth, value_width: valueWidth, scale: scale,
            query_stride: keyHeads * keyWidth, key_stride: steps * keyHeads * keyWidth, key_step: keyHeads * keyWidth,
            value_stride: steps * valueHeads * valueWidth, value_step: valueHeads * valueWidth,
            beta_stride: steps * valueHeads, beta_step: valueHeads, decay_stride: valueHeads,
            out_stride: valueHeads * valueWidth)
    }
}

/// What the delta rule reads. Queries and keys are normalised inside, per head: `x (Σx² + 1e-6)^(−½)`.
public struct DeltaRuleInputs {
    /// `[B, T, Hk, K]`.
    public var q: UnsafePointer<Float>
    /// `[B, T, n, Hk, K]`.
    public var k: UnsafePointer<Float>
    /// `[B, T, n, Hv, V]`.
    public var v: UnsafePointer<Float>
    /// `[B, T, n, Hv]`, in `[0, 2]`.
    public var beta: UnsafePointer<Float>
    /// `[B, T, Hv]`, ≤ 0, in nats; nil: no decay.
    public var logDecay: UnsafePointer<Float>?

    public init(
        q: UnsafePointer<Float>, k: UnsafePointer<Float>, v: UnsafePointer<Float>, beta: UnsafePointer<Float>,
        logDecay: UnsafePointer<Float>?
    ) {
        (self.q, self.k, self.v) = (q, k, v)
        (self.beta, self.logDecay) = (beta, logDecay)
    }
}

/// A matrix state per head that decays and is then corrected towards `v` along `k`, `n` times a token:
/// `S ← e^g S`; for each step `S ← S + k (β (v − Sᵀk))ᵀ`; `o = Sᵀ (scale·q)`.
///
/// The sequence is walked in chunks of `⌊64/n⌋` tokens, samples and heads in parallel, each in a fixed order. Per token and
/// head about `4LK + 3LV + 6KV` FLOPs forward with `L = 64`, and `16LK + 13LV + 20KV` backward, for one step.
/// Source: arXiv 2406.06484 (chunked form), 2412.06464 (decay), 2502.10297 (steps).
public enum DeltaRule {
    /// - Parameters:
    ///   - state: `[B, Hv, K, V]` before the first token; nil for zero.
    ///   - output: `[B, T, Hv, V]`.
    ///   - finalState: `[B, Hv, K, V]`.
    ///   - states: `[B, Hv, chunkCount, K, V]`, kept for the backward; nil when there will be none.
    public static func forward(
        _ inputs: DeltaRuleInputs, state: UnsafePointer<Float>?, output: UnsafeMutablePointer<Float>,
        finalState: UnsafeMutablePointer<Float>, states: UnsafeMutablePointer<Float>?, shape: DeltaRuleShape,
        threads: ThreadPool
    ) {
        shape.validate()
        let kernel = shape.kernelShape
        let floats = withUnsafePointer(to: kernel) { ck_delta_scratch($0, 0) }
        threads.run(shape.batch * shape.valueHeads) { index, worker in
            let at = Offsets(shape, kernel, sample: index / shape.valueHeads, head: index % shape.valueHeads)
            withUnsafePointer(to: kernel) { kernel in
                ck_delta_forward(
                    output + at.output, finalState + at.state, states.map { $0 + at.state * shape.chunkCount },
                    inputs.q + at.query, inputs.k + at.key, inputs.v + at.value, inputs.beta + at.beta,
                    inputs.logDecay.map { $0 + at.decay }, state.map { $0 + at.state }, kernel,
                    threads.scratch(worker: worker, floats: floats))
            }
        }
    }

    /// Gradients of `forward`; overwrites its results, which are laid out as the inputs.
    /// - Parameters:
    ///   - dOutput: `[B, T, Hv, V]`.
    ///   - dFinalState: `[B, Hv, K, V]`; nil for zero.
    ///   - dLogDecay: present iff the input is.
    ///   - dState: `[B, Hv, K, V]`, gradient of the initial state.
    public static func backward(
        _ inputs: DeltaRuleInputs, dOutput: UnsafePointer<Float>, dFinalState: UnsafePointer<Float>?,
        states: UnsafePointer<Float>, dq: UnsafeMutablePointer<Float>,
        dk: UnsafeMutablePointer<Float>, dv: UnsafeMutablePointer<Float>, dBeta: UnsafeMutablePointer<Float>,
        dLogDecay: UnsafeMutablePointer<Float>?, dState: UnsafeMutablePointer<Float>, shape: DeltaRuleShape,
        threads: ThreadPool
    ) {
        shape.validate()
        let kernel = shape.kernelShape, group = shape.valueHeads / shape.keyHeads
        let floats = withUnsafePointer(to: kernel) { ck_delta_scratch($0, 1) }
        threads.run(shape.batch * shape.keyHeads) { index, worker in
            let first = index % shape.keyHeads * group
            // Heads that share a query and key add to its gradient one after the other.
            for head in first..<first + group {
                let at = Offsets(shape, kernel, sample: index / shape.keyHeads, head: head)
                let gradients = ck_delta_gradients(
                    q: dq + at.query, k: dk + at.key, v: dv + at.value, beta: dBeta + at.beta,
                    log_decay: dLogDecay.map { $0 + at.decay }, state_in: dState + at.state,
                    accumulate: head > first ? 1 : 0)
                withUnsafePointer(to: kernel) { kernel in
                    withUnsafePointer(to: gradients) { gradients in
                        ck_delta_backward(
                            gradients, dOutput + at.output, dFinalState.map { $0 + at.state }, inputs.q + at.query,
                            inputs.k + at.key, inputs.v + at.value, inputs.beta + at.beta,
                            inputs.logDecay.map { $0 + at.decay }, states + at.state * shape.chunkCount, kernel,
                            threads.scratch(worker: worker, floats: floats))
                    }
                }
            }
        }
    }

    /// Where a head of a sample starts in each tensor.
    private struct Offsets {
        let query, key, value, beta, decay, output, state: Int

        init(_ shape: DeltaRuleShape, _ kernel: ck_delta_shape, sample: Int, head: Int) {
            let first = sample * shape.tokens
            let keyHead = head * shape.keyHeads / shape.valueHeads
            query = first * kernel.query_stride + keyHead * shape.keyWidth
            key = first * kernel.key_stride + keyHead * shape.keyWidth
            value = first * kernel.value_stride + head * shape.valueWidth
            beta = first * kernel.beta_stride + head
            decay = first * kernel.decay_stride + head
            output = first * kernel.out_stride + head * shape.valueWidth
            state = (sample * shape.valueHeads + head) * shape.stateCount
        }
    }
}
