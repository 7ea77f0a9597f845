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

    /// Which neighbours of a token a one-sided part of a two-sided memory reads: those strictly before or strictly after it.
    /// Its first token, or its last one, has none and is left alone.
    public enum Side: Sendable, Hashable { case before, after }

    /// Number of features `[1, x/f^¼, x_i x_j/√f, x_i²/√(2f)]` of `f` channels: `φ(q)·φ(k) = 1 + a + a²/2`, `a = q·k/√f`.
    public static func taylorWidth(_ channels: Int) -> Int { 1 + channels + channels * (channels + 1) / 2 }

    /// Tokens of a chunk.
    public static let chunk = Int(CK_MEMORY_CHUNK)

    public let batch, time, headCount, keyWidth, valueWidth: Int
    public let queryHeadCount, keyHeadCount, valueHeadCount: Int
    /// Channels `f` of a query or key of which the memory makes its `K` features, ``taylorWidth(_:)``; nil: none are made.
    public let rawKeyWidth: Int?
    /// nil: a token reads all up to itself.
    public let side: Side?
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
        keyHeadCount: Int? = nil, valueHeadCount: Int? = nil, rawKeyWidth: Int? = nil, side: Side? = nil,
        scale: Float = 1, normalizer: Normalizer = .none, isExponential: Bool = false, isStateTransposed: Bool = false
    ) {
        (self.batch, self.time, self.headCount) = (batch, time, headCount)
        (self.keyWidth, self.valueWidth) = (keyWidth, valueWidth)
        self.queryHeadCount = queryHeadCount ?? headCount
        self.keyHeadCount = keyHeadCount ?? headCount
        self.valueHeadCount = valueHeadCount ?? headCount
        (self.rawKeyWidth, self.side, self.scale, self.normalizer) = (rawKeyWidth, side, scale, normalizer)
        (self.isExponential, self.isStateTransposed) = (isExponential, isStateTransposed)
        queryStride = self.queryHeadCount * (rawKeyWidth ?? keyWidth)
        keyStride = self.keyHeadCount * (rawKeyWidth ?? keyWidth)
        valueStride = self.valueHeadCount * valueWidth
        require(
            batch > 0 && time > 0 && headCount > 0 && keyWidth > 0 && valueWidth > 0,
            "MatrixMemory: B \(batch), T \(time), H \(headCount), K \(keyWidth), V \(valueWidth); expected positive")
        require(
            rawKeyWidth.map { Self.taylorWidth($0) == keyWidth } ?? true,
            "MatrixMemory: K \(keyWidth) features of \(rawKeyWidth ?? 0) channels; expected 1 + f + f(f+1)/2")
        for count in [self.queryHeadCount, self.keyHeadCount, self.valueHeadCount] {
            require(
                count > 0 && headCount % count == 0 && headsPerTask % (headCount / count) == 0,
                "MatrixMemory: \(count) heads shared by \(headCount); expected divisors of one another")
        }
    }

    public var isNormalized: Bool { normalizer != .none }

    /// Columns of a query or key head as given.
    public var givenKeyWidth: Int { rawKeyWidth ?? keyWidth }

    /// Tokens of a sample that are read.
    fileprivate var tokenCount: Int { side == nil ? time : time - 1 }
    /// Rows from a token to the next one read.
    fileprivate var direction: Int { side == .after ? -1 : 1 }

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
            tokens: tokenCount, heads: headsPerTask, key_width: keyWidth, value_width: valueWidth,
            raw_width: rawKeyWidth ?? 0, query_share: headCount / queryHeadCount, key_share: headCount / keyHeadCount,
            value_share: headCount / valueHeadCount, q_stride: direction * queryStride,
            k_stride: direction * keyStride, v_stride: direction * valueStride,
            out_stride: direction * headCount * valueWidth, gate_stride: direction * headCount, scale: scale,
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
        /// `[B, T, Hq, K]`, `[B, T, Hk, K]`, `[B, T, Hv, V]`, tokens a stride apart. Without a query only the state is computed.
        public var query: Source?, key, value: Source
        /// `log f ≤ 0`, `log i`, `u`: `[B, T, H]`; nil is neutral.
        public var logDecay: Source?, logInput: Source?, valueScale: Source?
        /// `d [H]`.
        public var skip: Source?
        /// Before the first token: `[B, H, K, V]`, `[B, H, K]`, `[B, H]`; nil is zero.
        public var state: Source?, norm: Source?, maximum: Source?

        public init(query: Source?, key: Source, value: Source) {
            (self.query, self.key, self.value) = (query, key, value)
        }
    }

    public struct Results {
        /// `[B, T, H, V]`; nil without a query.
        public var output: Destination?
        /// Whether to add to the output instead of replacing it.
        public var addsOutput = false
        /// `[B, T, H]`, kept for the backward: the normaliser and its derivative by `σ`.
        public var denominator: Destination?, slope: Destination?
        /// After the last token; nil is not wanted.
        public var state: Destination?, norm: Destination?, maximum: Destination?
        /// `[keptCount]`; nil when there will be no backward.
        public var kept: Destination?

        public init(output: Destination?) { self.output = output }
    }

    public struct Gradients {
        /// nil without a query.
        public var dOutput: Source?
        /// From the forward.
        public var kept: Source
        public var output: Source?, denominator: Source?, slope: Source?
        public var state: Source?, norm: Source?
        /// Of the final state; nil is zero.
        public var dState: Source?, dNorm: Source?, dMaximum: Source?
        /// Laid out as their inputs, overwritten.
        public var dQuery: Destination?, dKey, dValue: Destination
        /// Whether to add to `dValue` instead.
        public var addsValue = false
        public var dLogDecay: Destination?, dLogInput: Destination?, dValueScale: Destination?
        /// `[B, H]`, to be summed over samples.
        public var dSkip: Destination?
        /// Of the initial state; nil is not wanted.
        public var dPastState: Destination?, dPastNorm: Destination?, dPastMaximum: Destination?

        public init(
            dOutput: Source?, kept: Source, dQuery: Destination?, dKey: Destination, dValue: Destination
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
                out: results.output.map { $0 + task.output }, add: results.addsOutput ? 1 : 0,
                denominator: results.denominator.map { $0 + task.gate },
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
                dout: g.dOutput.map { $0 + task.output }, out: g.output.map { $0 + task.output },
                denominator: g.denominator.map { $0 + task.gate }, slope: g.slope.map { $0 + task.gate },
                dstate: g.dState.map { $0 + task.state }, dnorm: g.dNorm.map { $0 + task.norm },
                dmaximum: g.dMaximum.map { $0 + task.head }, state: g.state.map { $0 + task.state },
                norm: g.norm.map { $0 + task.norm }, dq: g.dQuery.map { $0 + task.query },
                dk: g.dKey + task.key, dv: g.dValue + task.value, add_values: g.addsValue ? 1 : 0,
                dlog_decay: g.dLogDecay.map { $0 + task.gate },
                dlog_input: g.dLogInput.map { $0 + task.gate }, dvalue_scale: g.dValueScale.map { $0 + task.gate },
                dskip: g.dSkip.map { $0 + task.head }, dpast: g.dPastState.map { $0 + task.state },
                dpast_norm: g.dPastNorm.map { $0 + task.norm }, dpast_maximum: g.dPastMaximum.map { $0 + task.head },
                kept: g.kept + task.kept)
            ck_memory_backward(kernel, &inputs, &to, scratch)
        }
    }

    private static func check(_ inputs: Inputs, _ shape: MatrixMemoryShape) {
        require(
            shape.tokenCount > 0 && (shape.side == nil || !shape.isNormalized && inputs.skip == nil),
            "MatrixMemory: one side of \(shape.time) tokens; expected at least 2, no normaliser and no skip")
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
                q: all.query.map { $0 + query }, k: all.key + key, v: all.value + value,
                log_decay: all.logDecay.map { $0 + gate }, log_input: all.logInput.map { $0 + gate },
                value_scale: all.valueScale.map { $0 + gate }, skip: all.skip.map { $0 + head % headCount },
                state: all.state.map { $0 + state }, norm: all.norm.map { $0 + norm },
                maximum: all.maximum.map { $0 + head })
        }

        private let headCount: Int

        init(_ index: Int, _ shape: MatrixMemoryShape, kept: Int) {
            let (b, first) = (index / shape.taskCount, index % shape.taskCount * shape.taskHeads)
            let rows = b * shape.time + (shape.side == .after ? shape.time - 1 : 0)
            let outputRows = rows + (shape.side == nil ? 0 : shape.direction)
            headCount = shape.headCount
            query = rows * shape.queryStride + first * shape.queryHeadCount / headCount * shape.givenKeyWidth
            key = rows * shape.keyStride + first * shape.keyHeadCount / headCount * shape.givenKeyWidth
            value = rows * shape.valueStride + first * shape.valueHeadCount / headCount * shape.valueWidth
            output = (outputRows * headCount + first) * shape.valueWidth
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
