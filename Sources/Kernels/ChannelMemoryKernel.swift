import CKernels

/// Sizes of a matrix memory with a forget gate per key channel.
///
/// Legend: B samples, T tokens, H heads, K key width, V value width. Consecutive heads may share keys, decays and values.
public struct ChannelMemoryShape: Sendable, Hashable {
    public let batch, time, headCount, keyHeadCount, keyWidth, valueWidth: Int
    public let scale: Float

    public init(
        batch: Int, time: Int, headCount: Int, keyHeadCount: Int? = nil, keyWidth: Int, valueWidth: Int,
        scale: Float = 1
    ) {
        (self.batch, self.time, self.headCount) = (batch, time, headCount)
        self.keyHeadCount = keyHeadCount ?? headCount
        (self.keyWidth, self.valueWidth, self.scale) = (keyWidth, valueWidth, scale)
        require(
            batch > 0 && time > 0 && headCount > 0 && keyWidth > 0 && valueWidth > 0,
            "ChannelMemory: B \(batch), T \(time), H \(headCount), K \(keyWidth), V \(valueWidth); expected positive")
        require(
            self.keyHeadCount > 0 && headCount % self.keyHeadCount == 0,
            "ChannelMemory: \(self.keyHeadCount) key heads for \(headCount) heads; expected a divisor")
    }

    /// Floats that the forward keeps for the backward.
    public var keptCount: Int { batch * keyHeadCount * withKernelShape { ck_channel_memory_kept($0) } }

    fileprivate func withKernelShape<Result>(_ body: (UnsafePointer<ck_channel_memory_shape>) -> Result) -> Result {
        let share = headCount / keyHeadCount
        let shape = ck_channel_memory_shape(
            tokens: time, heads: share, key_width: keyWidth, value_width: valueWidth, key_share: share,
            q_stride: headCount * keyWidth, k_stride: keyHeadCount * keyWidth, v_stride: keyHeadCount * valueWidth,
            decay_stride: keyHeadCount * keyWidth, out_stride: headCount * valueWidth, scale: scale)
        return withUnsafePointer(to: shape, body)
    }
}

/// `S_t = diag(f_t) S_{t−1} + k_t v_tᵀ`, `o_t = scale·q_tᵀ S_t` in chunks of 64 tokens: the core of gated linear attention
/// and LightNet. Stable for any decay, also of e^−400 a token.
///
/// Work is cut by sample and key head; each is done in a fixed order.
public enum ChannelMemoryKernel {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    public struct Inputs {
        /// `[B, T, H, K]`, `[B, T, Hk, K]`, `[B, T, Hk, V]`, `log f ≤ 0` `[B, T, Hk, K]`.
        public var query, key, value, logDecay: Source
        /// Before the first token, `[B, H, K, V]`; nil is zero.
        public var state: Source?

        public init(query: Source, key: Source, value: Source, logDecay: Source, state: Source?) {
            (self.query, self.key, self.value) = (query, key, value)
            (self.logDecay, self.state) = (logDecay, state)
        }
    }

    public struct Gradients {
        /// Laid out as the inputs, overwritten; `state` nil: not wanted.
        public var query, key, value, logDecay: Destination
        public var state: Destination?

        public init(
            query: Destination, key: Destination, value: Destination, logDecay: Destination, state: Destination?
        ) {
            (self.query, self.key, self.value) = (query, key, value)
            (self.logDecay, self.state) = (logDecay, state)
        }
    }

    /// - Parameters:
    ///   - output: `[B, T, H, V]`. - state: after the last token, `[B, H, K, V]`.
    ///   - kept: `[keptCount]` for the backward, or nil.
    public static func forward(
        _ inputs: Inputs, into output: Destination, state: Destination, kept: Destination?,
        shape: ChannelMemoryShape, threads: ThreadPool
    ) {
        forEachTask(shape, backward: false, threads) { kernel, task, scratch in
            var own = task.inputs(inputs)
            ck_channel_memory_forward(
                output + task.output, state + task.state, kept.map { $0 + task.kept }, &own, kernel, scratch)
        }
    }

    /// - Parameter dState: gradient of the final state; nil is zero.
    public static func backward(
        _ dOutput: Source, dState: Source?, _ inputs: Inputs, kept: Source, into gradients: Gradients,
        shape: ChannelMemoryShape, threads: ThreadPool
    ) {
        forEachTask(shape, backward: true, threads) { kernel, task, scratch in
            var own = task.inputs(inputs)
            var to = ck_channel_memory_gradients(
                dout: dOutput + task.output, dstate: dState.map { $0 + task.state }, dq: gradients.query + task.query,
                dk: gradients.key + task.key, dv: gradients.value + task.value,
                dlog_decay: gradients.logDecay + task.key, dpast: gradients.state.map { $0 + task.state },
                kept: kept + task.kept)
            ck_channel_memory_backward(&to, &own, kernel, scratch)
        }
    }

    /// Where a task's first head lies in every array.
    private struct Task {
        let query, key, value, output, state, kept: Int

        init(_ index: Int, _ shape: ChannelMemoryShape, kept: Int) {
            let (b, group) = (index / shape.keyHeadCount, index % shape.keyHeadCount)
            let (rows, first) = (b * shape.time, group * (shape.headCount / shape.keyHeadCount))
            query = (rows * shape.headCount + first) * shape.keyWidth
            key = (rows * shape.keyHeadCount + group) * shape.keyWidth
            value = (rows * shape.keyHeadCount + group) * shape.valueWidth
            output = (rows * shape.headCount + first) * shape.valueWidth
            state = (b * shape.headCount + first) * shape.keyWidth * shape.valueWidth
            self.kept = index * kept
        }

        func inputs(_ all: Inputs) -> ck_channel_memory_inputs {
            ck_channel_memory_inputs(
                q: all.query + query, k: all.key + key, v: all.value + value, log_decay: all.logDecay + key,
                state: all.state.map { $0 + state })
        }
    }

    private static func forEachTask(
        _ shape: ChannelMemoryShape, backward: Bool, _ threads: ThreadPool,
        _ body: (UnsafePointer<ck_channel_memory_shape>, Task, Destination) -> Void
    ) {
        shape.withKernelShape { kernel in
            let (kept, floats) = (ck_channel_memory_kept(kernel), ck_channel_memory_scratch(kernel, backward ? 1 : 0))
            threads.run(shape.batch * shape.keyHeadCount) { index, worker in
                body(kernel, Task(index, shape, kept: kept), threads.scratch(worker: worker, floats: floats))
            }
        }
    }
}
