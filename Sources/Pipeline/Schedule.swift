import Kernels

/// A layer's output that feeds a layer of a later stage past the stages between.
public struct SkipEdge: Hashable, Sendable {
    public let fromStage: Int
    public let toStage: Int

    /// - Precondition: `0 ≤ fromStage < toStage`.
    public init(fromStage: Int, toStage: Int) {
        require(
            0 <= fromStage && fromStage < toStage,
            "SkipEdge: got stages \(fromStage) to \(toStage); expected the second to come later")
        self.fromStage = fromStage
        self.toStage = toStage
    }
}

/// The sizes that fix which units of work exist, and the edges that fix how they depend on each other.
public struct ScheduleShape: Hashable, Sendable {
    public enum Purpose: String, Sendable {
        /// Forward, backward, optimiser step.
        case training
        /// Forward only.
        case evaluation
    }

    public var stageCount: Int
    public var microBatchCount: Int
    /// Slices of the sequence axis per micro-batch.
    public var chunkCount: Int
    public var purpose: Purpose
    /// Edges beside the line of stages; two may join the same stages. `Action.edge` counts them from 1.
    public var skips: [SkipEdge] { didSet { checkSkips() } }
    /// Stages that a training step runs forward only, as truncated back-propagation through recursions does: their F
    /// keep nothing, and they have no other actions. Edges that touch them carry activations alone, so that a stage
    /// before them gets its gradient from skips past them, or none at all.
    public var forwardOnly: Set<Int> { didSet { checkForwardOnly() } }

    /// - Precondition: every count is at least 1; at most 65,535 skips, between stages that exist, which the forward-only
    ///   ones are too.
    public init(
        stageCount: Int, microBatchCount: Int, chunkCount: Int = 1, purpose: Purpose = .training,
        skips: [SkipEdge] = [], forwardOnly: Set<Int> = []
    ) {
        require(
            stageCount >= 1 && microBatchCount >= 1 && chunkCount >= 1,
            "ScheduleShape: got \(stageCount) stages, \(microBatchCount) micro-batches, \(chunkCount) chunks; "
                + "expected each to be at least 1")
        self.stageCount = stageCount
        self.microBatchCount = microBatchCount
        self.chunkCount = chunkCount
        self.purpose = purpose
        self.skips = skips
        self.forwardOnly = forwardOnly
        checkSkips()
        checkForwardOnly()
    }

    private func checkSkips() {
        require(
            skips.count < Action.edgeLimit && skips.allSatisfy { $0.toStage < stageCount },
            "ScheduleShape: got skips to stages \(skips.map(\.toStage)); expected fewer than \(Action.edgeLimit), "
                + "to stages below \(stageCount)")
    }

    private func checkForwardOnly() {
        require(
            forwardOnly.allSatisfy((0..<stageCount).contains),
            "ScheduleShape: got forward-only stages \(forwardOnly.sorted()); expected them below \(stageCount)")
    }

    /// Whether a stage computes gradients.
    public func hasBackward(_ stage: Int) -> Bool { purpose == .training && !forwardOnly.contains(stage) }

    /// Units of one stage.
    public var unitsPerStage: Int { microBatchCount * chunkCount }
    public var unitCount: Int { stageCount * unitsPerStage }

    /// Dense number of a unit, `0..<unitCount`; micro-batches of a stage are neighbours.
    public func index(of unit: UnitOfWork) -> Int {
        (unit.stage * microBatchCount + unit.microBatch) * chunkCount + unit.chunk
    }

    public func unit(at index: Int) -> UnitOfWork {
        let (row, chunk) = index.quotientAndRemainder(dividingBy: chunkCount)
        let (stage, microBatch) = row.quotientAndRemainder(dividingBy: microBatchCount)
        return UnitOfWork(stage: stage, microBatch: microBatch, chunk: chunk)
    }

    public func contains(_ unit: UnitOfWork) -> Bool {
        (0..<stageCount).contains(unit.stage) && (0..<microBatchCount).contains(unit.microBatch)
            && (0..<chunkCount).contains(unit.chunk)
    }

    /// The unit whose output comes to this unit along an edge; nil where the edge does not end here. On the line
    /// (edge 0) stage 0 has its input from the data.
    public func upstream(of unit: UnitOfWork, edge: Int = 0) -> UnitOfWork? {
        var other = unit
        if edge > 0 {
            guard edge <= skips.count, skips[edge - 1].toStage == unit.stage else { return nil }
            other.stage = skips[edge - 1].fromStage
        } else if unit.stage > 0 {
            other.stage -= 1
        } else {
            return nil
        }
        return other
    }

    /// The unit that reads this unit's output along an edge; nil where the edge does not begin here. On the line
    /// (edge 0) the last stage's output goes to the loss.
    public func downstream(of unit: UnitOfWork, edge: Int = 0) -> UnitOfWork? {
        var other = unit
        if edge > 0 {
            guard edge <= skips.count, skips[edge - 1].fromStage == unit.stage else { return nil }
            other.stage = skips[edge - 1].toStage
        } else if unit.stage < stageCount - 1 {
            other.stage += 1
        } else {
            return nil
        }
        return other
    }
}

/// What every rank does in one step, as a value: made by a generator or read from a file, completed by
/// `Lowering`, proved by `Verifier`, timed by `Simulator`, drawn by `ScheduleDrawing`, run by `Interpreter`.
///
/// Text form (`text`, `init(text:)`; examples in `configs/schedules`): one statement per line, `#` starts a comment,
/// blank lines are ignored, statements come in any order.
///
///     schedule 1f1b            name, one word
///     purpose training         optional: training, or evaluation (only unrecorded F)
///     micro_batches 4
///     chunks 1                 optional, 1
///     placement 0 1            rank of each stage in turn; every rank from 0 up holds at least one
///     skips 0-2 0-3            optional: edges 1, 2, ... beside the line, from stage to stage
///     forward_only 1 2         optional: stages without backward, in training
///     peak 2 1                 optional: most units of work each rank may hold recorded at once
///     lowered                  only when the lists contain SEND, RECV and WAIT, which lowering otherwise adds;
///                              'lowered replicas' when they also contain REDUCE_DP
///     rank 0: F s0 m0; F s0 m1; B s0 m0
///         F s0 m2; B s0 m1     an indented line goes on with the list above
///     rank 1: ...              one list per rank: actions (see `Action`), separated by `;`
public struct Schedule: Hashable, Sendable {
    public var name: String
    public var shape: ScheduleShape
    public var placement: Placement
    /// `ranks[r]` is what rank `r` does, in order.
    public var ranks: [[Action]]
    /// Per rank, the declared bound on units whose intermediate results are alive at once; nil declares none.
    public var peakUnits: [Int]?
    /// Whether communication has been added.
    public var isLowered: Bool
    /// Whether each stage's gradients are summed over replicas of the pipeline; only in a lowered training schedule.
    public var reducesReplicas: Bool

    /// - Precondition: the placement covers the shape's stages; one list (and one bound) per rank.
    public init(
        name: String, shape: ScheduleShape, placement: Placement, ranks: [[Action]], peakUnits: [Int]? = nil,
        isLowered: Bool = false, reducesReplicas: Bool = false
    ) {
        require(
            placement.stageCount == shape.stageCount && ranks.count == placement.rankCount
                && (peakUnits == nil || peakUnits!.count == ranks.count),
            "Schedule: got \(shape.stageCount) stages, placement \(placement.ranks), \(ranks.count) lists, "
                + "\(peakUnits?.count ?? 0) bounds; expected one list and one bound per rank of the placement")
        self.name = name
        self.shape = shape
        self.placement = placement
        self.ranks = ranks
        self.peakUnits = peakUnits
        self.isLowered = isLowered
        self.reducesReplicas = reducesReplicas
    }
}

/// A schedule that cannot be read, found or allowed.
public enum ScheduleError: Error, Equatable, CustomStringConvertible {
    /// Line numbers count from 1.
    case malformed(line: Int, reason: String)
    case unknownSchedule(name: String, known: [String])
    /// What was asked of a generator does not go together.
    case unsupported(schedule: String, reason: String)
    case illegal(schedule: String, violations: [ScheduleViolation])
    case tooManyMessages(count: Int, limit: Int)
    /// What is wrong with a schedule file, each message with file and line.
    case file(messages: [String])

    public var description: String {
        switch self {
        case .malformed(let line, let reason): "schedule line \(line): \(reason)"
        case .unknownSchedule(let name, let known):
            "unknown schedule '\(name)'; expected one of \(known.joined(separator: ", "))"
        case .unsupported(let schedule, let reason): "schedule '\(schedule)' \(reason)"
        case .illegal(let schedule, let violations):
            "schedule '\(schedule)' is not legal:\n" + violations.map { "  \($0)" }.joined(separator: "\n")
        case .tooManyMessages(let count, let limit):
            "a step has \(count) different messages, more than the \(limit) tags the transport can tell apart; "
                + "use fewer micro-batches or chunks"
        case .file(let messages): messages.joined(separator: "\n")
        }
    }
}

extension Schedule {
    /// The text form; `init(text:)` reads it back to an equal value.
    public var text: String {
        var lines = [
            "schedule \(name)", "purpose \(shape.purpose.rawValue)", "micro_batches \(shape.microBatchCount)",
            "chunks \(shape.chunkCount)", "placement " + placement.ranks.map(String.init).joined(separator: " "),
        ]
        if !shape.skips.isEmpty {
            lines.append("skips " + shape.skips.map { "\($0.fromStage)-\($0.toStage)" }.joined(separator: " "))
        }
        if !shape.forwardOnly.isEmpty {
            lines.append("forward_only " + shape.forwardOnly.sorted().map(String.init).joined(separator: " "))
        }
        if let peakUnits { lines.append("peak " + peakUnits.map(String.init).joined(separator: " ")) }
        if isLowered { lines.append(reducesReplicas ? "lowered replicas" : "lowered") }
        for (rank, actions) in ranks.enumerated() {
            lines.append("rank \(rank): " + actions.map(\.description).joined(separator: "; "))
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// Reads the text form. Only the grammar is checked; `Verifier` judges the meaning.
    public init(text: String) throws(ScheduleError) { self = try ScheduleReader(text).schedule() }
}
