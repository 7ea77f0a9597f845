import Communication

/// Where an incoming message goes.
public struct ReceiveBuffer {
    public let bytes: UnsafeMutableRawBufferPointer
    /// False: the message has exactly the buffer's size; true: at most that.
    public let isUpperBound: Bool

    public init(_ bytes: UnsafeMutableRawBufferPointer, isUpperBound: Bool = false) {
        self.bytes = bytes
        self.isUpperBound = isUpperBound
    }
}

/// What a rank's stages can do; the interpreter decides when. Called from one thread, in the order of the schedule.
///
/// Between stages of one rank the executor hands activations and gradients over itself; messages exist only between
/// ranks. Memory returned by `receiveBuffer` must stay in place until `received`, by `sendBuffer` until `sent`. After
/// an error the interpreter gives its requests up; only an MPI send may still read its buffer then.
public protocol StageExecutor: AnyObject {
    /// Its input has been received or was handed over.
    /// - Parameter recorded: false when a `recompute` follows, and in evaluation.
    func forward(_ unit: UnitOfWork, recorded: Bool) throws
    /// Repeats an unrecorded forward, recorded.
    func recompute(_ unit: UnitOfWork) throws
    func inputGradient(_ unit: UnitOfWork) throws
    /// Called in accumulation order; afterwards the unit's intermediate results are no longer needed.
    func weightGradient(_ unit: UnitOfWork) throws
    /// Storage for an incoming message.
    func receiveBuffer(_ message: StageMessage) throws -> ReceiveBuffer
    /// The first `byteCount` bytes of this message's buffer are now filled: all of them unless its size was a bound.
    func received(_ message: StageMessage, byteCount: Int) throws
    /// The bytes of an outgoing message, just computed.
    func sendBuffer(_ message: StageMessage) throws -> UnsafeRawBufferPointer
    /// The transport no longer reads the message's bytes.
    func sent(_ message: StageMessage) throws
    /// Starts to sum a stage's gradients over replicas, after its last weight gradient; must not wait. Only called when
    /// lowering was told that there are replicas.
    func reduceReplicas(stage: Int) throws
    /// Completes what `reduceReplicas` started, then is collective over the ranks that share a parameter.
    func reduceTied() throws
    func step() throws
}

extension StageExecutor {
    public func reduceReplicas(stage: Int) throws {
        fatalError("StageExecutor.reduceReplicas: got REDUCE_DP; expected an executor that has replicas")
    }
}

/// An action that failed on this rank.
public struct ActionFailure: LocatedError, CustomStringConvertible {
    /// What the other rank of a message has to do.
    public struct Need: Sendable {
        public var action: Action
        public var rank: Int
        public var tag: Int
    }

    public var rank: Int
    public var rankCount: Int
    public var position: Int
    public var action: Action
    /// When a message of the schedule was involved.
    public var need: Need?
    public var underlying: any Error
    /// An MPI send may still read the executor's memory while the job ends: it lives as long as the error.
    nonisolated(unsafe) let executor: any StageExecutor

    public var description: String {
        let stage = action.kind.isGlobal ? "" : ", stage \(action.stage)"
        let message = need.map { " needs '\($0.action)' of rank \($0.rank), tag \($0.tag)" } ?? ""
        return "[rank \(rank)/\(rankCount)\(stage)] '\(action)' at position \(position)\(message): \(underlying)"
    }
}

/// Where one rank's time went in one run of the schedule; seconds.
public struct StepTiming: Hashable, Sendable, BitwiseCopyable {
    /// Computing: F, I, W, B, R.
    public var busy = 0.0
    /// Held by a message that had not arrived or not left.
    public var waiting = 0.0
    /// REDUCE_DP, REDUCE_TIED and STEP, waits inside them included.
    public var closing = 0.0
    /// From the beginning to the last compute or message action.
    public var span = 0.0
    /// Bytes handed to the transport.
    public var bytesSent = 0

    public init() {}

    /// Idle share of all ranks, measured: what `Simulation.bubbleFraction` predicts. `timings` is one entry per rank of
    /// the same step, whose ranks began together (they do, since a step ends with collective work).
    public static func bubbleFraction(_ timings: [StepTiming]) -> Double {
        let span = timings.map(\.span).max() ?? 0
        guard span > 0 else { return 0 }
        return 1 - timings.reduce(0) { $0 + $1.busy } / (span * Double(timings.count))
    }
}
