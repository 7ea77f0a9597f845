/// A schedule written by hand, with the line of each action, so that faults can be named where they stand.
public struct ScheduleFile: Sendable {
    public let path: String
    public let schedule: Schedule
    /// Per rank, the line of each action and of the list's head.
    private let lines: [[Int]]
    private let heads: [Int]

    /// - Parameters:
    ///   - path: only named in messages.
    ///   - text: its content, in the format of `Schedule`.
    /// - Throws: `ScheduleError.file` when the text does not follow the grammar.
    public init(path: String, text: String) throws(ScheduleError) {
        self.path = path
        do {
            let reader = try ScheduleReader(text)
            schedule = try reader.schedule()
            lines = schedule.ranks.indices.map { reader.lists[$0]!.lines }
            heads = schedule.ranks.indices.map { reader.lists[$0]!.head }
        } catch {
            guard case .malformed(let line, let reason) = error else { throw error }
            throw .file(messages: ["\(path):\(line): \(reason)"])
        }
    }

    /// - Throws: `ScheduleError.file` with a message for each broken rule.
    public func verify() throws(ScheduleError) {
        let violations = Verifier.violations(in: schedule)
        guard !violations.isEmpty else { return }
        throw .file(
            messages: violations.map { violation in
                let line = violation.position.map { lines[violation.rank][$0] } ?? heads[violation.rank]
                return "\(path):\(line): \(violation)"
            })
    }
}

/// Collects the statements of a schedule's text.
struct ScheduleReader {
    struct List {
        var head: Int
        var actions: [Action] = []
        var lines: [Int] = []
    }

    private(set) var lists: [Int: List] = [:]
    private var values: [String: (words: [String], line: Int)] = [:]
    /// The rank whose list an indented line continues.
    private var openRank: Int?
    private var lastLine = 0

    init(_ text: String) throws(ScheduleError) {
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            try read(line.prefix { $0 != "#" && $0 != "\r" }, line: index + 1)
        }
    }

    private mutating func read(_ line: Substring, line number: Int) throws(ScheduleError) {
        lastLine = number
        if let colon = line.firstIndex(of: ":") {
            let head = line[..<colon].split(separator: " ")
            guard head.count == 2, head[0] == "rank", let rank = Int(head[1]), rank >= 0 else {
                throw .malformed(line: number, reason: "got '\(line[...colon])'; expected 'rank <number>:'")
            }
            guard lists[rank] == nil else { throw .malformed(line: number, reason: "rank \(rank) is given twice") }
            lists[rank] = List(head: number)
            openRank = rank
            return try readActions(line[line.index(after: colon)...], rank, line: number)
        }
        var words = line.split(whereSeparator: \.isWhitespace).map(String.init)
        guard !words.isEmpty else { return }
        if line.first!.isWhitespace, let openRank { return try readActions(line, openRank, line: number) }
        openRank = nil
        let key = words.removeFirst()
        let known = [
            "schedule", "purpose", "micro_batches", "chunks", "placement", "skips", "forward_only", "peak", "lowered",
        ]
        guard known.contains(key) else {
            throw .malformed(
                line: number, reason: "unknown word '\(key)'; expected \(known.joined(separator: ", ")) or 'rank n:'")
        }
        guard values[key] == nil else { throw .malformed(line: number, reason: "'\(key)' is given twice") }
        values[key] = (words, number)
    }

    private mutating func readActions(_ list: Substring, _ rank: Int, line number: Int) throws(ScheduleError) {
        for text in list.split(separator: ";") {
            let words = text.split(whereSeparator: \.isWhitespace).joined(separator: " ")
            if words.isEmpty { continue }
            guard let action = Action(words) else {
                throw .malformed(
                    line: number, reason: "got '\(words)'; expected an action such as 'F s0 m1 c0' or 'STEP'")
            }
            lists[rank]!.actions.append(action)
            lists[rank]!.lines.append(number)
        }
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

    private func forwardOnly(stageCount: Int) throws(ScheduleError) -> Set<Int> {
        let stages = try numbers("forward_only", atLeast: 0) ?? []
        guard stages.allSatisfy({ $0 < stageCount }) else {
            throw .malformed(
                line: values["forward_only"]!.line, reason: "'forward_only' needs stages below \(stageCount)")
        }
        return Set(stages)
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
            chunkCount: try count("chunks", default: 1), purpose: purpose,
            skips: try skips(stageCount: ranks.count), forwardOnly: try forwardOnly(stageCount: ranks.count))
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
            ranks: (0..<placement.rankCount).map { lists[$0]!.actions }, peakUnits: peak, isLowered: lowered != nil,
            reducesReplicas: lowered?.words == ["replicas"])
    }
}
