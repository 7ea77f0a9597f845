import Kernels

/// The smallest piece of work a schedule names: one micro-batch's one chunk in one stage. Layers that are used several
/// times over lie in a stage for each use.
public struct UnitOfWork: Hashable, Sendable {
    public var stage: Int
    public var microBatch: Int
    /// Slice of the sequence axis, `0` first in time.
    public var chunk: Int

    public init(stage: Int, microBatch: Int, chunk: Int = 0) {
        self.stage = stage
        self.microBatch = microBatch
        self.chunk = chunk
    }
}

extension UnitOfWork: CustomStringConvertible {
    public var description: String { "s\(stage) m\(microBatch) c\(chunk)" }
}

/// One thing one rank does, the vocabulary of every schedule, simulation and trace.
///
/// Text form (`description`, `init(_:)`), words separated by blanks:
///
///     action  = compute unit | "F" unit "unrecorded" | message unit | "REDUCE_DP" "s" stage | global
///     compute = "F" | "I" | "W" | "B" | "R"
///     message = ("SEND" | "RECV" | "WAIT") "_" ("A" | "G")                 with ["e" edge] after the unit
///     global  = "REDUCE_TIED" | "STEP"
///     unit    = "s" stage "m" microBatch ["c" chunk]                      each letter joined to its number
///
/// for example `F s1 m3 c0`, `F s0 m2 c1 unrecorded`, `SEND_G s1 m3 c0 e1`, `STEP`. An absent `c` or `e` means 0.
///
/// A message action carries the unit on its own side of the edge: `SEND_A s0 m3` sends what stage 0 computed for
/// micro-batch 3 to stage 1, which takes it with `RECV_A s1 m3`; `SEND_G s1 m3` answers with the gradient,
/// `RECV_G s0 m3`. Edge 0 is the line of stages, edge `e` ≥ 1 is `ScheduleShape.skips[e - 1]`: with a skip from stage 0
/// to stage 5, `SEND_A s0 m3 e1` is taken by `RECV_A s5 m3 e1` and answered by `SEND_G s5 m3 e1`, `RECV_G s0 m3 e1`.
/// Sends and receives only start a transfer. A receive is completed by the compute action that needs it; a send is
/// completed, and its buffer given back, by the `WAIT` of the same letter, unit and edge.
///
/// `REDUCE_DP s3` starts to sum stage 3's gradients over the replicas of the pipeline; `REDUCE_TIED` completes all that
/// its rank has started, then sums gradients of shared parameters over the ranks that share them.
public struct Action: Hashable, Sendable, BitwiseCopyable {
    public enum Kind: UInt8, CaseIterable, Sendable, BitwiseCopyable {
        case forward
        case inputGradient
        case weightGradient
        /// `inputGradient`, then `weightGradient`.
        case backward
        /// Repeats a forward whose intermediate results were not kept.
        case recompute
        case sendActivation, sendGradient
        case receiveActivation, receiveGradient
        case waitActivation, waitGradient
        case reduceTied
        case reduceReplicas
        case step
    }

    // 12 bytes: a schedule of 1024 stages and 4096 micro-batches has 8 million actions before lowering.
    private let microBatchBits: UInt32
    private let stageBits: UInt16
    private let chunkBits: UInt16
    private let edgeBits: UInt16
    public let kind: Kind
    /// For `forward`: whether intermediate results are kept for the backward. True for every other kind.
    public let isRecorded: Bool

    /// Edge numbers are below this.
    static let edgeLimit = 1 << 16

    /// - Parameters:
    ///   - edge: for messages: 0 is the line of stages, others count the skips from 1.
    ///   - recorded: for `forward`.
    /// - Precondition: stage, chunk and edge are below 2¹⁶, the micro-batch below 2³².
    public init(_ kind: Kind, _ unit: UnitOfWork, edge: Int = 0, recorded: Bool = true) {
        require(
            UInt16(exactly: unit.stage) != nil && UInt16(exactly: unit.chunk) != nil
                && UInt32(exactly: unit.microBatch) != nil,
            "Action: got unit \(unit); expected stage and chunk in 0..<65536, micro-batch in 0..<2^32")
        require(
            edge == 0 || kind.isMessage && (0..<Self.edgeLimit).contains(edge),
            "Action: got edge \(edge) for \(kind.text); expected 0..<\(Self.edgeLimit), 0 unless it is a message")
        self.kind = kind
        microBatchBits = UInt32(unit.microBatch)
        stageBits = UInt16(unit.stage)
        chunkBits = UInt16(unit.chunk)
        edgeBits = UInt16(edge)
        isRecorded = recorded || kind != .forward
    }

    /// An action of the rank as a whole: `reduceTied` or `step`.
    public init(_ kind: Kind) {
        require(kind.isGlobal, "Action: got \(kind.text) without a unit; expected REDUCE_TIED or STEP")
        self.init(kind, UnitOfWork(stage: 0, microBatch: 0))
    }

    /// `REDUCE_DP` of one stage.
    public static func reduceReplicas(stage: Int) -> Action {
        Action(.reduceReplicas, UnitOfWork(stage: stage, microBatch: 0))
    }

    public var stage: Int { Int(stageBits) }
    public var microBatch: Int { Int(microBatchBits) }
    public var chunk: Int { Int(chunkBits) }
    /// The edge that a message takes; 0 for everything else.
    public var edge: Int { Int(edgeBits) }
    public var unit: UnitOfWork { UnitOfWork(stage: stage, microBatch: microBatch, chunk: chunk) }
}

extension Action.Kind {
    /// The word used in schedule files and traces.
    public var text: String {
        switch self {
        case .forward: "F"
        case .inputGradient: "I"
        case .weightGradient: "W"
        case .backward: "B"
        case .recompute: "R"
        case .sendActivation: "SEND_A"
        case .sendGradient: "SEND_G"
        case .receiveActivation: "RECV_A"
        case .receiveGradient: "RECV_G"
        case .waitActivation: "WAIT_A"
        case .waitGradient: "WAIT_G"
        case .reduceTied: "REDUCE_TIED"
        case .reduceReplicas: "REDUCE_DP"
        case .step: "STEP"
        }
    }

    /// Belongs to the rank, not to a unit of work.
    public var isGlobal: Bool { self == .reduceTied || self == .step }
    /// F, I, W, B or R.
    public var isCompute: Bool { rawValue <= Self.recompute.rawValue }
    /// SEND, RECV or WAIT.
    public var isMessage: Bool { !isCompute && rawValue <= Self.waitGradient.rawValue }
}

extension Action: CustomStringConvertible {
    public var description: String {
        if kind.isGlobal { return kind.text }
        if kind == .reduceReplicas { return "\(kind.text) s\(stage)" }
        return "\(kind.text) \(unit)" + (edge == 0 ? "" : " e\(edge)") + (isRecorded ? "" : " unrecorded")
    }

    /// Reads the text form; nil when it does not follow the grammar or a number is out of range.
    public init?(_ text: some StringProtocol) {
        var words = text.split(separator: " ", omittingEmptySubsequences: true)[...]
        guard let name = words.popFirst(), let kind = Kind.allCases.first(where: { $0.text == name }) else {
            return nil
        }
        if kind.isGlobal {
            guard words.isEmpty else { return nil }
            self.init(kind)
            return
        }
        var recorded = true
        if kind == .forward, words.last == "unrecorded" {
            recorded = false
            words.removeLast()
        }
        var numbers: [Character: Int] = [:]
        for word in words {
            guard let letter = word.first, let limit = Self.limit(letter, kind), numbers[letter] == nil,
                let number = Int(word.dropFirst()), (0...limit).contains(number), word.dropFirst().first != "+"
            else { return nil }
            numbers[letter] = number
        }
        guard let stage = numbers["s"] else { return nil }
        if kind == .reduceReplicas {
            self = .reduceReplicas(stage: stage)
            return
        }
        guard let microBatch = numbers["m"] else { return nil }
        let unit = UnitOfWork(stage: stage, microBatch: microBatch, chunk: numbers["c"] ?? 0)
        self.init(kind, unit, edge: numbers["e"] ?? 0, recorded: recorded)
    }

    /// The largest number that may follow a letter; nil for letters that have no business there.
    private static func limit(_ letter: Character, _ kind: Kind) -> Int? {
        switch letter {
        case "s": Int(UInt16.max)
        case _ where kind == .reduceReplicas: nil
        case "c": Int(UInt16.max)
        case "m": Int(UInt32.max)
        case "e" where kind.isMessage: edgeLimit - 1
        default: nil
        }
    }
}
