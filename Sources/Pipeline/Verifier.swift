/// One broken rule: where, what, and what is missing.
public struct ScheduleViolation: Hashable, Sendable, CustomStringConvertible {
    public var rank: Int
    /// Place in the rank's list, from 0; nil when the action is absent.
    public var position: Int?
    /// The offending or absent action.
    public var action: Action
    public var reason: String

    public var description: String {
        "rank \(rank), " + (position.map { "position \($0)" } ?? "absent") + ", '\(action)': \(reason)"
    }
}

/// Proves that a schedule, with or without communication, trains what it claims to train.
///
/// Checked: every action lies on the rank of its stage; each unit has one F, and in training one B or one I and one W;
/// R exactly where F was not recorded; weight gradients of a stage in micro-batch order, within it in reverse chunk
/// order; never more live units than declared; in a lowered schedule one SEND, RECV and WAIT for each edge between
/// ranks, none inside a rank, and the same closing reductions and STEP everywhere; finally, by running all lists
/// against each other under rendezvous semantics, that every dependency is met in order and no rank waits for ever.
public enum Verifier {
    /// Violations listed at most; the first ones are the useful ones.
    public static let violationLimit = 20

    /// - Throws: `ScheduleError.illegal` naming each broken rule.
    public static func verify(_ schedule: Schedule) throws(ScheduleError) {
        let violations = violations(in: schedule)
        if !violations.isEmpty { throw .illegal(schedule: schedule.name, violations: violations) }
    }

    /// Empty when the schedule is legal.
    public static func violations(in schedule: Schedule) -> [ScheduleViolation] {
        var census = ScheduleCensus(schedule)
        census.countAll()
        // Order can only be judged among actions that exist, once, in the right place.
        if census.violations.isEmpty { census.checkCompleteness() }
        if census.violations.isEmpty { census.checkOrder() }
        return Array(census.violations.prefix(violationLimit))
    }
}

private struct ScheduleCensus {
    let schedule: Schedule
    let shape: ScheduleShape
    var violations: [ScheduleViolation] = []
    /// Per unit, one bit per kind of action seen; B counts as I and W.
    var seen: [UInt16]
    /// Per unit, set by an unrecorded forward.
    var unrecorded: [Bool]

    init(_ schedule: Schedule) {
        self.schedule = schedule
        shape = schedule.shape
        seen = Array(repeating: 0, count: schedule.shape.unitCount)
        unrecorded = Array(repeating: false, count: schedule.shape.unitCount)
    }

    static func bit(_ kind: Action.Kind) -> UInt16 {
        kind == .backward ? bit(.inputGradient) | bit(.weightGradient) : 1 << UInt16(kind.rawValue)
    }

    mutating func report(_ rank: Int, _ position: Int?, _ action: Action, _ reason: String) {
        guard violations.count < Verifier.violationLimit else { return }
        violations.append(ScheduleViolation(rank: rank, position: position, action: action, reason: reason))
    }

    private func rank(of unit: UnitOfWork) -> Int { schedule.placement.ranks[unit.stage] }

    /// What belongs where, and nothing twice.
    mutating func countAll() {
        for (rank, actions) in schedule.ranks.enumerated() {
            let globals = expectedGlobals
            let body = actions.count - globals.count
            for (position, action) in actions.enumerated() {
                if action.kind.isGlobal {
                    if position < body || globals[position - body] != action.kind {
                        report(rank, position, action, "expected only \(Self.list(globals)) at the end of the list")
                    }
                } else {
                    count(rank, position, action)
                }
            }
            for (offset, kind) in globals.enumerated()
            where body < 0 || actions[body + offset].kind != kind {
                report(rank, nil, Action(kind), "the list must end with \(Self.list(globals))")
            }
        }
    }

    /// The closing actions. Reductions are joint work of all ranks, so rank 0 decides about `REDUCE_DP`.
    private var expectedGlobals: [Action.Kind] {
        guard schedule.isLowered, shape.purpose == .training else { return [] }
        let reducesReplicas = schedule.ranks[0].contains { $0.kind == .reduceReplicas }
        return reducesReplicas ? [.reduceTied, .reduceReplicas, .step] : [.reduceTied, .step]
    }

    private static func list(_ kinds: [Action.Kind]) -> String {
        kinds.isEmpty ? "no reduction or step" : kinds.map(\.text).joined(separator: ", ")
    }

    private mutating func count(_ rank: Int, _ position: Int, _ action: Action) {
        let unit = action.unit
        guard shape.contains(unit) else {
            return report(
                rank, position, action,
                "outside \(shape.stageCount) stages, \(shape.microBatchCount) micro-batches, \(shape.chunkCount) "
                    + "chunks, \(shape.recursionCount) recursions")
        }
        guard self.rank(of: unit) == rank else {
            return report(rank, position, action, "stage \(unit.stage) lies on rank \(self.rank(of: unit))")
        }
        if shape.purpose == .evaluation, action.kind.isCompute, action.kind != .forward || action.isRecorded {
            return report(rank, position, action, "an evaluation runs only unrecorded forwards")
        }
        if action.kind.isMessage, let reason = strayMessage(action) {
            return report(rank, position, action, reason)
        }
        let index = shape.index(of: unit)
        let bits = Self.bit(action.kind)
        if seen[index] & bits != 0 { report(rank, position, action, "done before, on the same unit") }
        seen[index] |= bits
        if action.kind == .forward { unrecorded[index] = !action.isRecorded }
    }

    /// Why a message action has no business here; nil when it does.
    private func strayMessage(_ action: Action) -> String? {
        guard schedule.isLowered else { return "the schedule is not marked as lowered" }
        return expectedMessages(action.unit).contains(action.kind)
            ? nil : "no edge between ranks here: the neighbouring stage is absent or on the same rank"
    }

    /// Kinds of message action that a unit needs.
    private func expectedMessages(_ unit: UnitOfWork) -> [Action.Kind] {
        guard schedule.isLowered else { return [] }
        let rank = rank(of: unit)
        let training = shape.purpose == .training
        var kinds: [Action.Kind] = []
        if let other = shape.upstream(of: unit), self.rank(of: other) != rank {
            kinds.append(.receiveActivation)
            if training { kinds += [.sendGradient, .waitGradient] }
        }
        if let other = shape.downstream(of: unit), self.rank(of: other) != rank {
            kinds += [.sendActivation, .waitActivation]
            if training { kinds.append(.receiveGradient) }
        }
        return kinds
    }

    /// Nothing is missing, and R exactly where needed.
    mutating func checkCompleteness() {
        for index in seen.indices {
            let unit = shape.unit(at: index)
            let rank = rank(of: unit)
            var expected: [Action.Kind] = [.forward]
            if shape.purpose == .training { expected += [.inputGradient, .weightGradient] }
            for kind in expected + expectedMessages(unit) where seen[index] & Self.bit(kind) == 0 {
                report(rank, nil, Action(kind, unit), absence(kind, unit))
            }
            guard shape.purpose == .training else { continue }
            let recomputed = seen[index] & Self.bit(.recompute) != 0
            if recomputed, !unrecorded[index] {
                let action = Action(.recompute, unit)
                report(rank, position(of: action, rank), action, "the forward of this unit was recorded")
            } else if !recomputed, unrecorded[index] {
                report(
                    rank, nil, Action(.recompute, unit),
                    "the forward of this unit was not recorded, so its backward needs a recompute")
            }
            if violations.count >= Verifier.violationLimit { return }
        }
    }

    private func absence(_ kind: Action.Kind, _ unit: UnitOfWork) -> String {
        switch kind {
        case .forward: "the unit has no forward"
        case .inputGradient: "the unit has no input gradient (neither I nor B)"
        case .weightGradient: "the unit has no weight gradient (neither W nor B)"
        case .sendActivation: "'F \(shape.downstream(of: unit)!)' on another rank needs it"
        case .sendGradient: "the backward of \(shape.upstream(of: unit)!) on another rank needs it"
        case .receiveActivation: "'F \(unit)' needs it"
        case .receiveGradient: "the backward of this unit needs it"
        default: "the send of this unit is never waited for"
        }
    }

    private func position(of action: Action, _ rank: Int) -> Int? { schedule.ranks[rank].firstIndex(of: action) }

    /// Gradient order, memory, dependencies.
    mutating func checkOrder() {
        for (rank, actions) in schedule.ranks.enumerated() {
            checkGradientOrder(rank, actions)
            checkMemory(rank, actions)
        }
        var walk = ScheduleWalk(schedule)
        walk.run { _, _, _, _ in }
        for (rank, position) in walk.positions.enumerated() where position < schedule.ranks[rank].count {
            let action = schedule.ranks[rank][position]
            report(rank, position, action, stuck(walk.need(action, walk.unitIndex(action))!, walk))
        }
    }

    private mutating func checkGradientOrder(_ rank: Int, _ actions: [Action]) {
        // Next place in the accumulation order, per stage and recursion.
        var next = [Int](repeating: 0, count: shape.stageCount * shape.recursionCount)
        for (position, action) in actions.enumerated()
        where action.kind == .weightGradient || action.kind == .backward {
            let slot = action.stage * shape.recursionCount + action.recursion
            let order = action.microBatch * shape.chunkCount + shape.chunkCount - 1 - action.chunk
            if order != next[slot] {
                var expected = action.unit
                expected.microBatch = next[slot] / shape.chunkCount
                expected.chunk = shape.chunkCount - 1 - next[slot] % shape.chunkCount
                report(
                    rank, position, action,
                    "weight gradients are added in micro-batch, then reverse chunk order; '\(expected)' comes first")
                return
            }
            next[slot] += 1
        }
    }

    private mutating func checkMemory(_ rank: Int, _ actions: [Action]) {
        guard let limit = schedule.peakUnits?[rank] else { return }
        var live = 0
        for (position, action) in actions.enumerated() {
            switch action.kind {
            case .forward where action.isRecorded, .recompute: live += 1
            case .weightGradient, .backward: live -= 1
            default: break
            }
            if live > limit {
                return report(rank, position, action, "unit \(live) alive at once; declared are at most \(limit)")
            }
        }
    }

    /// Words for what a blocked action lacks.
    private func stuck(_ need: ScheduleWalk.Need, _ walk: ScheduleWalk) -> String {
        let unit = shape.unit(at: need.unit)
        let candidates: [Action] =
            switch need.fact {
            case .forward: [Action(.forward, unit), Action(.forward, unit, recorded: false)]
            case .recorded: [Action(.forward, unit), Action(.recompute, unit)]
            case .inputGradient: [Action(.inputGradient, unit), Action(.backward, unit)]
            case .sentActivation: [Action(.sendActivation, unit)]
            case .sentGradient: [Action(.sendGradient, unit)]
            case .postedActivation: [Action(.receiveActivation, shape.downstream(of: unit)!)]
            case .postedGradient: [Action(.receiveGradient, shape.upstream(of: unit)!)]
            }
        let owner = rank(of: candidates[0].unit)
        guard let position = schedule.ranks[owner].firstIndex(where: candidates.contains) else {
            return "waits for '\(candidates[0])' of rank \(owner), which never runs"
        }
        return "waits for '\(schedule.ranks[owner][position])' of rank \(owner) at position \(position), "
            + "while that rank is stuck at position \(walk.positions[owner])"
    }
}
