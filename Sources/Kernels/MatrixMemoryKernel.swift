import CKernels

/// Sizes and kind of a matrix memory with one forget gate per head and token.
///
/// Legend: B samples, T tokens, H heads, K key width, V value width. Queries, keys and values may be shared by
/// consecutive heads: head `h` reads query head `⌊h·Hq/H⌋`, and likewise.
public struct MatrixMemoryShape: Sendable, Hashable {
    /// What an output is divided by.
    public enum Normalizer: Sendable, Hashable {
        case none
        /// `σ + epsilon`
        case sum(epsilon: Float)
        /// `max(|σ|, floor) + epsilon`; an exponential memory takes `e^{−m}` for its floor.
        case magnitude(floor: Float, epsilon: Float)
    }

    /// Tokens of a chunk.
    public static let chunk = Int(CK_MEMORY_CHUNK)

    public let batch, time, headCount, keyWidth, valueWidth: Int
    public let queryHeadCount, keyHeadCount, valueHeadCount: Int
    public let scale: Float
    public let normalizer: Normalizer
    /// Input gates of unlimited range, kept in range by a running maximum.
    public let isExponential: Bool
    /// The state outside is `[B, H, V, K]` instead of `[B, H, K, V]`.
    public let isStateTransposed: Bool
    /// Floats from token to token.
    public var queryStride, keyStride, valueStride: Int

    public init(
        batch: Int, time: Int, headCount: Int, keyWidth: Int, valueWidth: Int, queryHeadCount: Int? = nil,
        keyHeadCount: Int? = nil, valueHeadCount: Int? = nil, scale: Float = 1, normalizer: Normalizer = .none,
        isExponential: Bool = false, isStateTransposed: Bool = false
    ) {
        (self.batch, self.time, self.headCount) = (batch, time, headCount)
        (self.keyWidth, self.valueWidth) = (keyWidth, valueWidth)
        self.queryHeadCount = queryHeadCount ?? headCount
        self.keyHeadCount = keyHeadCount ?? headCount
        self.valueHeadCount = valueHeadCount ?? headCount
        (self.scale, self.normalizer) = (scale, normalizer)
        (self.isExponential, self.isStateTransposed) = (isExponential, isStateTransposed)
        queryStride = self.queryHeadCount * keyWidth
        keyStride = self.keyHeadCount * keyWidth
        valueStride = self.valueHeadCount * valueWidth
        require(
            batch > 0 && time > 0 && headCount > 0 && keyWidth > 0 && valueWidth > 0,
            "MatrixMemory: B \(batch), T \(time), H \(headCount), K \(keyWidth), V \(valueWidth); expected positive")
        for count in [self.queryHeadCount, self.keyHeadCount, self.valueHeadCount] {
            require(
                count > 0 && headCount % count == 0 && headsPerTask % (headCount / count) == 0,
                "MatrixMemory: \(count) heads shared by \(headCount); expected divisors of one another")
        }
    }

    public var isNormalized: Bool { normalizer != .none }

    /// Floats that the forward keeps for the backward.
    public var keptCount: Int { batch * taskCount * withKernelShape { ck_memory_kept($0) } }

    /// Heads that share anything are computed together.
    private var headsPerTask: Int { headCount / min(queryHeadCount, keyHeadCount, valueHeadCount) }
    fileprivate var taskCount: Int { headCount / headsPerTask }
    fileprivate var taskHeads: Int { headsPerTask }

    fileprivate func withKernelShape<Result>(_ body: (UnsafePointer<ck_memory_shape>) -> Result) -> Result {
        let (floor, epsilon): (Float, Float) =
            switch normalizer {
            case .none: (0, 0)
            case .sum(let epsilon): (-1, epsilon)
            case .magnitude(let floor, let epsilon): (floor, epsilon)
            }
        let shape = ck_memory_shape(
            tokens: time, heads: headsPerTask, key_width: keyWidth, value_width: valueWidth,
            query_share: headCount / queryHeadCount, key_share: headCount / keyHeadCount,
            value_share: headCount / valueHeadCount, q_stride: queryStride, k_stride: keyStride, v_stride: valueStride,
            out_stride: headCount * valueWidth, gate_stride: headCount, scale: scale,
            exponential: isExponential ? 1 : 0, normalized: isNormalized ? 1 : 0, floor: floor, epsilon: epsilon,
            transposed: isStateTransposed ? 1 : 0)
        return withUnsafePointer(to: shape, body)
    }
}

/// `S_t = f_t S_{t−1} + i_t k_t (u_t v_t)ᵀ`, `o_t = scale·q_tᵀ S_t (÷ normaliser) + d v_t`, in chunks of 64 tokens: the
/// core of linear attention, RetNet, Mamba-2 and mLSTM. `ck_matrix_memory.h` has the whole of it.
///
/// Work is cut by sample and by groups of heads that share queries, keys or values; each is done in a fixed order.
public enum MatrixMemoryKernel {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    public struct Inputs {
        /// `[B, T, Hq, K]`, `[B, T, Hk, K]`, `[B, T, Hv, V]`, tokens a stride apart.
        public var query, key, value: Source
        /// `log f ≤ 0`, `log i`, `u`: `[B, T, H]`; nil is neutral.
        public var logDecay: Source?, logInput: Source?, valueScale: Source?
        /// `d [H]`.
        public var skip: Source?
        /// Before the first token: `[B, H, K, V]`, `[B, H, K]`, `[B, H]`; nil is zero.
        public var state: Source?, norm: Source?, maximum: Source?

        public init(query: Source, key: Source, value: Source) {
            (self.query, self.key, self.value) = (query, key, value)
        }
    }

    public struct Results {
        /// `[B, T, H, V]`.
        public var output: Destination
        /// `[B, T, H]`, kept for the backward: the normaliser and its derivative by `σ`.
        public var denominator: Destination?, slope: Destination?
        /// After the last token; nil is not wanted.
        public var state: Destination?, norm: Destination?, maximum: Destination?
        /// `[keptCount]`; nil when there will be no backward.
        public var kept: Destination?

        public init(output: Destination) { self.output = output }
    }

    public struct Gradients {
        public var dOutput: Source
        /// From the forward.
        public var kept: Source
        public var output: Source?, denominator: Source?, slope: Source?
        public var state: Source?, norm: Source?
        /// Of the final state; nil is zero.
        public var dState: Source?, dNorm: Source?, dMaximum: Source?
        /// Laid out as their inputs, overwritten.
        public var dQuery, dKey, dValue: Destination
        public var dLogDecay: Destination?, dLogInput: Destination?, dValueScale: Destination?
        /// `[B, H]`, to be summed over samples.
        public var dSkip: Destination?
        /// Of the initial state; nil is not wanted.
        public var dPastState: Destination?, dPastNorm: Destination?, dPastMaximum: Destination?

        public init(
            dOutput: Source, kept: Source, dQuery: Destination, dKey: Destination, dValue: Destination
        ) {
            (self.dOutput, self.kept) = (dOutput, kept)
            (self.dQuery, self.dKey, self.dValue) = (dQuery, dKey, dValue)
        }
    }

    public static func forward(
        _ inputs: Inputs, into results: Results, shape: MatrixMemoryShape, threads: ThreadPool
    ) {
        check(inputs, shape)
        forEachTask(shape, backward: false, threads) { kernel, task, scratch in
            var inputs = task.inputs(inputs)
            var to = ck_memory_results(
                out: results.output + task.output, denominator: results.denominator.map { $0 + task.gate },
                slope: results.slope.map { $0 + task.gate }, state: results.state.map { $0 + task.state },
                norm: results.norm.map { $0 + task.norm }, maximum: results.maximum.map { $0 + task.head },
                kept: results.kept.map { $0 + task.kept })
            ck_memory_forward(kernel, &inputs, &to, scratch)
        }
    }

    public static func backward(
        _ inputs: Inputs, _ gradients: Gradients, shape: MatrixMemoryShape, threads: ThreadPool
    ) {
        check(inputs, shape)
        let g = gradients
        forEachTask(shape, backward: true, threads) { kernel, task, scratch in
            var inputs = task.inputs(inputs)
            var to = ck_memory_gradients(
                dout: g.dOutput + task.output, out: g.output.map { $0 + task.output },
                denominator: g.denominator.map { $0 + task.gate }, slope: g.slope.map { $0 + task.gate },
                dstate: g.dState.map { $0 + task.state }, dnorm: g.dNorm.map { $0 + task.norm },
                dmaximum: g.dMaximum.map { $0 + task.head }, state: g.state.map { $0 + task.state },
                norm: g.norm.map { $0 + task.norm }, dq: g.dQuery + task.query, dk: g.dKey + task.key,
                dv: g.dValue + task.value, dlog_decay: g.dLogDecay.map { $0 + task.gate },
                dlog_input: g.dLogInput.map { $0 + task.gate }, dvalue_scale: g.dValueScale.map { $0 + task.gate },
                dskip: g.dSkip.map { $0 + task.head }, dpast: g.dPastState.map { $0 + task.state },
                dpast_norm: g.dPastNorm.map { $0 + task.norm }, dpast_maximum: g.dPastMaximum.map { $0 + task.head },
                kept: g.kept + task.kept)
            ck_memory_backward(kernel, &inputs, &to, scratch)
        }
    }

    private static func check(_ inputs: Inputs, _ shape: MatrixMemoryShape) {
        require(
            !shape.isExponential || (inputs.logInput != nil && shape.isNormalized),
            "MatrixMemory: an exponential memory; expected input gates and a normaliser")
        require(
            !shape.isNormalized || (inputs.valueScale == nil && inputs.skip == nil),
            "MatrixMemory: a normaliser with a value scale or a skip; expected neither")
    }

    /// Where a task's first head lies in every array.
    private struct Task {
        let query, key, value, output, gate, head, state, norm, kept: Int

        func inputs(_ all: Inputs) -> ck_memory_inputs {
            ck_memory_inputs(
                q: all.query + query, k: all.key + key, v: all.value + value,
                log_decay: all.logDecay.map { $0 + gate }, log_input: all.logInput.map { $0 + gate },
                value_scale: all.valueScale.map { $0 + gate }, skip: all.skip.map { $0 + head % headCount },
                state: all.state.map { $0 + state }, norm: all.norm.map { $0 + norm },
                maximum: all.maximum.map { $0 + head })
        }

        private let headCount: Int

        init(_ index: Int, _ shape: MatrixMemoryShape, kept: Int) {
            let (b, first) = (index / shape.taskCount, index % shape.taskCount * shape.taskHeads)
            let rows = b * shape.time
            headCount = shape.headCount
            query = rows * shape.queryStride + first * shape.queryHeadCount / headCount * shape.keyWidth
            key = rows * shape.keyStride + first * shape.keyHeadCount / headCount * shape.keyWidth
            value = rows * shape.valueStride + first * shape.valueHeadCount / headCount * shape.valueWidth
            output = (rows * headCount + first) * shape.valueWidth
            gate = rows * headCount + first
            head = b * headCount + first
            state = head * shape.keyWidth * shape.valueWidth
            norm = head * shape.keyWidth
            self.kept = index * kept
        }
    }

    private static func forEachTask(
        _ shape: MatrixMemoryShape, backward: Bool, _ threads: ThreadPool,
        _ body: (UnsafePointer<ck_memory_shape>, Task, Destination) -> Void
    ) {
        shape.withKernelShape { kernel in
            let (kept, floats) = (ck_memory_kept(kernel), ck_memory_scratch(kernel, backward ? 1 : 0))
            threads.run(shape.batch * shape.taskCount) { index, worker in
                body(
                    kernel, Task(index, shape, kept: kept), threads.scratch(worker: worker, floats: floats))
            }
        }
    }
}
