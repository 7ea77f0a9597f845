import Kernels

/// A layer's output that feeds a layer of a later stage past the stages between, in the same pass.
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
    /// Passes through all stages; more than 1 only in a ring.
    public var recursionCount: Int
    public var purpose: Purpose
    /// Edges beside the line of stages; two may join the same stages. `Action.edge` counts them from 1.
    public var skips: [SkipEdge] { didSet { checkSkips() } }

    /// - Precondition: every count is at least 1; at most 127 skips, between stages that exist.
    public init(
        stageCount: Int, microBatchCount: Int, chunkCount: Int = 1, recursionCount: Int = 1,
        purpose: Purpose = .training, skips: [SkipEdge] = []
    ) {
        require(
            stageCount >= 1 && microBatchCount >= 1 && chunkCount >= 1 && recursionCount >= 1,
            "ScheduleShape: got \(stageCount) stages, \(microBatchCount) micro-batches, \(chunkCount) chunks, "
                + "\(recursionCount) recursions; expected each to be at least 1")
        self.stageCount = stageCount
        self.microBatchCount = microBatchCount
        self.chunkCount = chunkCount
        self.recursionCount = recursionCount
        self.purpose = purpose
        self.skips = skips
        checkSkips()
    }

    private func checkSkips() {
        require(
            skips.count < Action.edgeLimit && skips.allSatisfy { $0.toStage < stageCount },
            "ScheduleShape: got skips to stages \(skips.map(\.toStage)); expected fewer than \(Action.edgeLimit), "
                + "to stages below \(stageCount)")
    }

    /// Units of one stage.
    public var unitsPerStage: Int { recursionCount * microBatchCount * chunkCount }
    public var unitCount: Int { stageCount * unitsPerStage }

    /// Dense number of a unit, `0..<unitCount`; micro-batches of a stage are neighbours.
    public func index(of unit: UnitOfWork) -> Int {
        ((unit.stage * recursionCount + unit.recursion) * microBatchCount + unit.microBatch) * chunkCount + unit.chunk
    }

    public func unit(at index: Int) -> UnitOfWork {
        let (row, chunk) = index.quotientAndRemainder(dividingBy: chunkCount)
        let (pass, microBatch) = row.quotientAndRemainder(dividingBy: microBatchCount)
        let (stage, recursion) = pass.quotientAndRemainder(dividingBy: recursionCount)
        return UnitOfWork(stage: stage, microBatch: microBatch, chunk: chunk, recursion: recursion)
    }

    public func contains(_ unit: UnitOfWork) -> Bool {
        (0..<stageCount).contains(unit.stage) && (0..<microBatchCount).contains(unit.microBatch)
            && (0..<chunkCount).contains(unit.chunk) && (0..<recursionCount).contains(unit.recursion)
    }

    /// The unit whose output comes to this unit along an edge; nil where the edge does not end here. On the line
    /// (edge 0) stage 0 has its input from the data, or in a ring from the last stage of the pass before.
    public func upstream(of unit: UnitOfWork, edge: Int = 0) -> UnitOfWork? {
        var other = unit
        if edge > 0 {
            guard edge <= skips.count, skips[edge - 1].toStage == unit.stage else { return nil }
            other.stage = skips[edge - 1].fromStage
        } else if unit.stage > 0 {
            other.stage -= 1
        } else if unit.recursion > 0 {
            other.stage = stageCount - 1
            other.recursion -= 1
        } else {
            return nil
        }
        return other
    }

    /// The unit that reads this unit's output along an edge; nil where the edge does not begin here. On the line
    /// (edge 0) the last stage's output goes to the loss, or in a ring to the first stage of the next pass.
    public func downstream(of unit: UnitOfWork, edge: Int = 0) -> UnitOfWork? {
        var other = unit
        if edge > 0 {
            guard edge <= skips.count, skips[edge - 1].fromStage == unit.stage else { return nil }
            other.stage = skips[edge - 1].toStage
        } else if unit.stage < stageCount - 1 {
            other.stage += 1
        } else if unit.recursion < recursionCount - 1 {
            other.stage = 0
            other.recursion += 1
        } else {
            return nil
        }
        return other
    }
}

/// What every rank does in one step, as a value: made by a generator or read from a file, completed by
/// `Lowering`, proved by `Verifier`, timed by `Simulator`, drawn by `ScheduleDrawing`, run by `Interpreter`.
///
/// Text form (`text`, `init(text:)`): one statement per line, `#` starts a comment, blank lines are ignored.
///
///     schedule 1f1b            name, one word
///     purpose training         training | evaluation
///     micro_batches 4
///     chunks 1                 optional, 1
///     recursions 1             optional, 1
///     placement 0 1            rank of each stage in turn
///     skips 0-2 0-3            optional: edges 1, 2, ... beside the line, from stage to stage
///     peak 2 1                 optional: most units of work each rank may hold recorded at once
///     lowered                  present when the lists contain SEND, RECV and WAIT;
///                              'lowered replicas' when they also contain REDUCE_DP
///     rank 0: F s0 m0; F s0 m1; B s0 m0; ...
///     rank 1: ...
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
        }
    }
}

extension Schedule {
    /// The text form; `init(text:)` reads it back to an equal value.
    public var text: String {
        var lines = [
            "schedule \(name)", "purpose \(shape.purpose.rawValue)", "micro_batches \(shape.microBatchCount)",
            "chunks \(shape.chunkCount)", "recursions \(shape.recursionCount)",
            "placement " + placement.ranks.map(String.init).joined(separator: " "),
        ]
        if !shape.skips.isEmpty {
            lines.append("skips " + shape.skips.map { "\($0.fromStage)-\($0.toStage)" }.joined(separator: " "))
        }
        if let peakUnits { lines.append("peak " + peakUnits.map(String.init).joined(separator: " ")) }
        if isLowered { lines.append(reducesReplicas ? "lowered replicas" : "lowered") }
        for (rank, actions) in ranks.enumerated() {
            lines.append("rank \(rank): " + actions.map(\.description).joined(separator: "; "))
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// Reads the text form. Only the grammar is checked; `Verifier` judges the meaning.
    public init(text: String) throws(ScheduleError) {
        var reader = ScheduleReader()
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            try reader.read(line.prefix { $0 != "#" && $0 != "\r" }, line: index + 1)
        }
        self = try reader.schedule()
    }
}

/// Collects the statements of a schedule file.
private struct ScheduleReader {
    private var values: [String: (words: [String], line: Int)] = [:]
    private var lists: [Int: [Action]] = [:]
    private var lastLine = 0

    mutating func read(_ line: Substring, line number: Int) throws(ScheduleError) {
        lastLine = number
        if let colon = line.firstIndex(of: ":") {
            let head = line[..<colon].split(separator: " ")
            guard head.count == 2, head[0] == "rank", let rank = Int(head[1]), rank >= 0 else {
                throw .malformed(line: number, reason: "got '\(line[...colon])'; expected 'rank <number>:'")
            }
            guard lists[rank] == nil else { throw .malformed(line: number, reason: "rank \(rank) is given twice") }
            var actions: [Action] = []
            for text in line[line.index(after: colon)...].split(separator: ";") {
                if text.allSatisfy({ $0 == " " }) { continue }
                guard let action = Action(text) else {
                    throw .malformed(
                        line: number, reason: "got '\(text)'; expected an action such as 'F s0 m1 c0' or 'STEP'")
                }
                actions.append(action)
            }
            lists[rank] = actions
            return
        }
        var words = line.split(separator: " ").map(String.init)
        guard !words.isEmpty else { return }
        let key = words.removeFirst()
        let known = [
            "schedule", "purpose", "micro_batches", "chunks", "recursions", "placement", "skips", "peak", "lowered",
        ]
        guard known.contains(key) else {
            throw .malformed(
                line: number, reason: "unknown word '\(key)'; expected \(known.joined(separator: ", ")) or 'rank n:'")
        }
        guard values[key] == nil else { throw .malformed(line: number, reason: "'\(key)' is given twice") }
        values[key] = (words, number)
    }

    private func numbers(_ key: String, atLeast minimum: Int) throws(ScheduleError) -> [Int]? {
        guard let (words, line) = values[key] else { return nil }
        let numbers = words.compactMap { Int($0) }
        guard numbers.count == words.count, !numbers.isEmpty, numbers.allSatisfy({ $0 >= minimum }) else {
            throw .malformed(line: line, reason: "'\(key)' needs whole numbers of at least \(minimum)")
        }
        return numbers
    }

    private func count(_ key: String, default fallback: Int?) throws(ScheduleError) -> Int {
        guard let numbers = try numbers(key, atLeast: 1) else {
            guard let fallback else { throw .malformed(line: lastLine, reason: "'\(key)' is missing") }
            return fallback
        }
        guard numbers.count == 1 else {
            throw .malformed(line: values[key]!.line, reason: "'\(key)' needs one number")
        }
        return numbers[0]
    }

    private func skips(stageCount: Int) throws(ScheduleError) -> [SkipEdge] {
        guard let (words, line) = values["skips"] else { return [] }
        var skips: [SkipEdge] = []
        for word in words {
            let stages = word.split(separator: "-", omittingEmptySubsequences: false).compactMap { Int($0) }
            guard stages.count == 2, stages[0] >= 0, stages[0] < stages[1], stages[1] < stageCount else {
                throw .malformed(
                    line: line,
                    reason: "got skip '\(word)'; expected two stages below \(stageCount), as in '0-\(stageCount - 1)'")
            }
            skips.append(SkipEdge(fromStage: stages[0], toStage: stages[1]))
        }
        guard (1..<Action.edgeLimit).contains(skips.count) else {
            throw .malformed(line: line, reason: "got \(skips.count) skips; expected 1 to \(Action.edgeLimit - 1)")
        }
        return skips
    }

    func schedule() throws(ScheduleError) -> Schedule {
        guard let name = values["schedule"], name.words.count == 1 else {
            throw .malformed(line: values["schedule"]?.line ?? lastLine, reason: "'schedule <name>' is missing")
        }
        var purpose = ScheduleShape.Purpose.training
        if let (words, line) = values["purpose"] {
            guard words.count == 1, let value = ScheduleShape.Purpose(rawValue: words[0]) else {
                throw .malformed(line: line, reason: "'purpose' needs training or evaluation")
            }
            purpose = value
        }
        guard let ranks = try numbers("placement", atLeast: 0), Placement.isComplete(ranks) else {
            throw .malformed(
                line: values["placement"]?.line ?? lastLine,
                reason: "'placement' needs the rank of each stage, every rank from 0 up at least once")
        }
        let shape = ScheduleShape(
            stageCount: ranks.count, microBatchCount: try count("micro_batches", default: nil),
            chunkCount: try count("chunks", default: 1), recursionCount: try count("recursions", default: 1),
            purpose: purpose, skips: try skips(stageCount: ranks.count))
        let placement = Placement(ranks: ranks)
        let peak = try numbers("peak", atLeast: 0)
        guard peak == nil || peak!.count == placement.rankCount else {
            throw .malformed(line: values["peak"]!.line, reason: "'peak' needs \(placement.rankCount) numbers")
        }
        guard lists.count == placement.rankCount, lists.keys.max() == placement.rankCount - 1 else {
            throw .malformed(
                line: lastLine,
                reason: "got lists for ranks \(lists.keys.sorted()); expected 0..<\(placement.rankCount)")
        }
        let lowered = values["lowered"]
        if let lowered, ![[], ["replicas"]].contains(lowered.words) {
            throw .malformed(line: lowered.line, reason: "'lowered' may be followed by 'replicas' only")
        }
        return Schedule(
            name: name.words[0], shape: shape, placement: placement,
            ranks: (0..<placement.rankCount).map { lists[$0]! }, peakUnits: peak, isLowered: lowered != nil,
            reducesReplicas: lowered?.words == ["replicas"])
    }
}
