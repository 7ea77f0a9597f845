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
/// Checked: every action lies on the rank of its stage; each unit has one F, and in training one B or one I and one W
/// (in forward-only stages none of these, and an unrecorded F); R exactly where F was not recorded; input gradients of a stage, and weight gradients, in micro-batch order, within it in
/// reverse chunk order; never more live units than declared; in a lowered schedule one SEND, RECV and WAIT for each edge between
/// ranks and none inside a rank, REDUCE_DP of each stage after its last weight gradient if there are replicas, and
/// REDUCE_TIED and STEP at the end of every list; finally, by running all lists
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
        violations(in: schedule, ScheduleIndex(schedule.shape)) { _, _, _, _ in }
    }

    /// Visits, as `ScheduleWalk.run` does, the actions of a schedule with no other faults, as far as they can run.
    static func violations(
        in schedule: Schedule, _ index: ScheduleIndex, visit: (Int, Int, Action, Int) -> Void
    ) -> [ScheduleViolation] {
        var census = ScheduleCensus(schedule, index)
        census.countAll()
        // Order can only be judged among actions that exist, once, in the right place.
        if census.violations.isEmpty { census.checkCompleteness() }
        if census.violations.isEmpty {
            census.checkOrder()
            census.checkDependencies(visit)
        }
        return Array(census.violations.prefix(violationLimit))
    }
}

private struct ScheduleCensus {
    let schedule: Schedule
    let shape: ScheduleShape
    private let index: ScheduleIndex
    var violations: [ScheduleViolation] = []
    /// Per unit, and per message slot beyond the line, one bit per kind of action seen; B counts as I and W. Line
    /// messages count at the unit that names them.
    private var seen: [UInt16]
    /// The bits that each slot needs: per stage for units with their line messages, per skip for the rest.
    private let unitBits: [UInt16]
    private let skipBits: [UInt16]
    /// Per stage, whether REDUCE_DP was seen.
    private var isReduced: [Bool]

    init(_ schedule: Schedule, _ index: ScheduleIndex) {
        self.schedule = schedule
        self.index = index
        shape = schedule.shape
        seen = Array(repeating: 0, count: index.slotCount)
        isReduced = Array(repeating: false, count: shape.stageCount)
        let shape = schedule.shape
        let placement = schedule.placement.ranks
        func bits(_ kinds: Action.Kind...) -> UInt16 { kinds.reduce(0) { $0 | Self.bit($1) } }
        /// What an edge needs at its two ends.
        func messages(_ from: Int, _ to: Int) -> (sender: UInt16, receiver: UInt16) {
            guard schedule.isLowered, placement[from] != placement[to] else { return (0, 0) }
            let hasGradient = index.hasBackward[from] && index.hasBackward[to]
            return (
                bits(.sendActivation, .waitActivation) | (hasGradient ? bits(.receiveGradient) : 0),
                bits(.receiveActivation) | (hasGradient ? bits(.sendGradient, .waitGradient) : 0)
            )
        }
        unitBits = (0..<shape.stageCount).map { stage in
            bits(.forward) | (index.hasBackward[stage] ? bits(.inputGradient, .weightGradient) : 0)
                | (stage > 0 ? messages(stage - 1, stage).receiver : 0)
                | (stage < shape.stageCount - 1 ? messages(stage, stage + 1).sender : 0)
        }
        skipBits = shape.skips.map { skip in
            let (sender, receiver) = messages(skip.fromStage, skip.toStage)
            return sender | receiver
        }
    }

    private static func bit(_ kind: Action.Kind) -> UInt16 {
        kind == .backward ? bit(.inputGradient) | bit(.weightGradient) : 1 << UInt16(kind.rawValue)
    }

    /// Set by an unrecorded forward; no kind has this bit.
    private static let unrecorded: UInt16 = 1 << 15

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

    /// The closing actions.
    private var expectedGlobals: [Action.Kind] {
        schedule.isLowered && shape.purpose == .training ? [.reduceTied, .step] : []
    }

    private var reducesReplicas: Bool {
        schedule.reducesReplicas && schedule.isLowered && shape.purpose == .training
    }

    private static func list(_ kinds: [Action.Kind]) -> String {
        kinds.isEmpty ? "no reduction or step" : kinds.map(\.text).joined(separator: ", ")
    }

    private mutating func count(_ rank: Int, _ position: Int, _ action: Action) {
        guard action.stage < shape.stageCount, action.microBatch < shape.microBatchCount,
            action.chunk < shape.chunkCount
        else {
            return report(
                rank, position, action,
                "outside \(shape.stageCount) stages, \(shape.microBatchCount) micro-batches, \(shape.chunkCount) chunks"
            )
        }
        let home = schedule.placement.ranks[action.stage]
        guard home == rank else {
            return report(rank, position, action, "stage \(action.stage) lies on rank \(home)")
        }
        if action.kind == .reduceReplicas {
            if !reducesReplicas {
                report(rank, position, action, "the schedule is not marked as reducing over replicas")
            } else if !index.hasBackward[action.stage] {
                report(rank, position, action, "stage \(action.stage) is forward only: it has no gradients")
            } else if isReduced[action.stage] {
                report(rank, position, action, "done before, on the same stage")
            }
            isReduced[action.stage] = true
            return
        }
        if action.kind.isCompute, !index.hasBackward[action.stage], action.kind != .forward || action.isRecorded {
            let what = shape.purpose == .evaluation ? "an evaluation" : "a forward-only stage"
            return report(rank, position, action, what + " runs only unrecorded forwards")
        }
        if action.kind.isMessage, let reason = strayMessage(action) {
            return report(rank, position, action, reason)
        }
        let slot = index.slot(from: index.unit(action), edge: action.edge)
        let bits = Self.bit(action.kind)
        if seen[slot] & bits != 0 { report(rank, position, action, "done before, on the same unit") }
        seen[slot] |= bits | (action.isRecorded ? 0 : Self.unrecorded)
    }

    /// Why a message action has no business here; nil when it does.
    private func strayMessage(_ action: Action) -> String? {
        guard schedule.isLowered else { return "the schedule is not marked as lowered" }
        let expected: UInt16
        if action.edge == 0 {
            expected = unitBits[action.stage]
        } else if StageMessage(action, shape) != nil {
            expected = skipBits[action.edge - 1]
        } else {
            expected = 0
        }
        return expected & Self.bit(action.kind) != 0
            ? nil
            : "no edge between ranks here: the stage at its other end is absent, on the same rank or, for a gradient, "
                + "without backward"
    }

    /// Nothing is missing, and R exactly where needed.
    mutating func checkCompleteness() {
        let recompute = Self.bit(.recompute)
        for number in 0..<index.unitCount {
            let expected = unitBits[index.stage(number)]
            let bits = seen[number]
            if bits & expected != expected { reportMissing(expected & ~bits, shape.unit(at: number), edge: 0) }
            if index.hasBackward[index.stage(number)], (bits & recompute == 0) != (bits & Self.unrecorded == 0) {
                let action = Action(.recompute, shape.unit(at: number))
                if bits & recompute != 0 {
                    let rank = rank(of: action.unit)
                    let position = schedule.ranks[rank].firstIndex(of: action)
                    report(rank, position, action, "the forward of this unit was recorded")
                } else {
                    report(
                        rank(of: action.unit), nil, action,
                        "the forward of this unit was not recorded, so its backward needs a recompute")
                }
            }
            if violations.count >= Verifier.violationLimit { return }
        }
        for slot in index.unitCount..<index.slotCount {
            let (skip, offset) = (slot - index.unitCount).quotientAndRemainder(dividingBy: index.stride)
            let missing = skipBits[skip] & ~seen[slot]
            if missing == 0 { continue }
            for stage in [shape.skips[skip].fromStage, shape.skips[skip].toStage] {
                reportMissing(missing, shape.unit(at: stage * index.stride + offset), edge: skip + 1)
            }
        }
        for stage in 0..<shape.stageCount where reducesReplicas && index.hasBackward[stage] && !isReduced[stage] {
            let action = Action.reduceReplicas(stage: stage)
            report(rank(of: action.unit), nil, action, absence(action))
        }
    }

    /// Reports the kinds in `bits` that a unit lacks, on a skip those that belong to its end.
    private mutating func reportMissing(_ bits: UInt16, _ unit: UnitOfWork, edge: Int) {
        for kind in Action.Kind.allCases where kind != .backward && bits & Self.bit(kind) != 0 {
            let action = Action(kind, unit, edge: edge)
            if edge == 0 || StageMessage(action, shape) != nil { report(rank(of: unit), nil, action, absence(action)) }
        }
    }

    private func absence(_ action: Action) -> String {
        let unit = action.unit
        return switch action.kind {
        case .forward: "the unit has no forward"
        case .inputGradient: "the unit has no input gradient (neither I nor B)"
        case .weightGradient: "the unit has no weight gradient (neither W nor B)"
        case .sendActivation: "'F \(shape.downstream(of: unit, edge: action.edge)!)' on another rank needs it"
        case .sendGradient: "the backward of \(shape.upstream(of: unit, edge: action.edge)!) on another rank needs it"
        case .receiveActivation: "'F \(unit)' needs it"
        case .receiveGradient: "the backward of this unit needs it"
        case .reduceReplicas: "the gradients of stage \(unit.stage) are never summed over replicas"
        default: "the send of this unit is never waited for"
        }
    }

    /// Gradient order and memory.
    mutating func checkOrder() {
        for (rank, actions) in schedule.ranks.enumerated() {
            checkGradientOrder(rank, actions)
            checkMemory(rank, actions)
        }
    }

    mutating func checkDependencies(_ visit: (Int, Int, Action, Int) -> Void) {
        var walk = ScheduleWalk(schedule, index)
        walk.run(visit)
        for (rank, position) in walk.positions.enumerated() where position < schedule.ranks[rank].count {
            let action = schedule.ranks[rank][position]
            report(rank, position, action, stuck(walk.need(action, index.unit(action))!, walk))
        }
    }

    private mutating func checkGradientOrder(_ rank: Int, _ actions: [Action]) {
        // Next place in the accumulation order, per stage.
        var next = [Int](repeating: 0, count: shape.stageCount)
        var nextInput = next
        for (position, action) in actions.enumerated() {
            let place = (action.microBatch + 1) * shape.chunkCount - 1 - action.chunk
            if action.kind == .inputGradient || action.kind == .backward {
                // Layers that recompute themselves, and a head whose logits do not fit, add weight gradients here.
                if place != nextInput[action.stage] {
                    return report(
                        rank, position, action,
                        "input gradients run in micro-batch, then reverse chunk order; "
                            + "'\(shape.backwardUnit(stage: action.stage, nextInput[action.stage]))' comes first")
                }
                nextInput[action.stage] += 1
            }
            switch action.kind {
            case .weightGradient, .backward:
                if place != next[action.stage] {
                    return report(
                        rank, position, action,
                        "weight gradients are added in micro-batch, then reverse chunk order; "
                            + "'\(shape.backwardUnit(stage: action.stage, next[action.stage]))' comes first")
                }
                next[action.stage] += 1
            case .reduceReplicas:
                if next[action.stage] < shape.unitsPerStage {
                    return report(
                        rank, position, action,
                        "stands before the weight gradient of "
                            + "'\(shape.backwardUnit(stage: action.stage, next[action.stage]))'")
                }
            default: break
            }
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
        let edge = need.edge
        let candidates: [Action] =
            switch need.fact {
            case .forward: [Action(.forward, unit), Action(.forward, unit, recorded: false)]
            case .recorded: [Action(.forward, unit), Action(.recompute, unit)]
            case .inputGradient: [Action(.inputGradient, unit), Action(.backward, unit)]
            case .sentActivation: [Action(.sendActivation, unit, edge: edge)]
            case .sentGradient: [Action(.sendGradient, unit, edge: edge)]
            case .postedActivation:
                [Action(.receiveActivation, shape.downstream(of: unit, edge: edge)!, edge: edge)]
            case .postedGradient: [Action(.receiveGradient, shape.upstream(of: unit, edge: edge)!, edge: edge)]
            }
        let owner = rank(of: candidates[0].unit)
        guard let position = schedule.ranks[owner].firstIndex(where: candidates.contains) else {
            return "waits for '\(candidates[0])' of rank \(owner), which never runs"
        }
        return "waits for '\(schedule.ranks[owner][position])' of rank \(owner) at position \(position), "
            + "while that rank is stuck at position \(walk.positions[owner])"
    }
}
