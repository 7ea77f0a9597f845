/// Runs the lists of all ranks against each other, without time, as far as dependencies allow.
///
/// Every action is visited after everything it depends on. A rank that is left in front of an action at the end
/// waits for something that never happens: that is a deadlock. Transfers are treated as rendezvous, the strictest
/// behaviour a transport may show: a send completes only once its receive has been posted. Linear in the number of
/// actions, since each rank's order is fixed and nobody else can overtake inside it.
///
/// - Precondition: every unit lies in the shape and on the rank that holds its stage, every message on an edge
///   between ranks.
struct ScheduleWalk {
    /// What is known about a unit, or about the message of a slot (sent, posted).
    enum Fact: UInt8 {
        case forward = 1
        case recorded = 2
        case inputGradient = 4
        case sentActivation = 8
        case sentGradient = 16
        case postedActivation = 32
        case postedGradient = 64
    }

    /// What a blocked action lacks: a fact about a unit, or about the message that a unit sends along an edge.
    struct Need {
        var unit: Int
        var edge = 0
        var fact: Fact
    }

    private let schedule: Schedule
    private let index: ScheduleIndex
    private let placement: [Int]
    /// By unit and message slot.
    private var facts: [UInt8]
    /// Position of each rank in its list.
    private(set) var positions: [Int]

    init(_ schedule: Schedule, _ index: ScheduleIndex) {
        self.schedule = schedule
        self.index = index
        placement = schedule.placement.ranks
        facts = Array(repeating: 0, count: index.slotCount)
        positions = Array(repeating: 0, count: schedule.ranks.count)
    }

    /// Visits each action that can run. `visit` receives rank, position, action and the unit's number.
    mutating func run(_ visit: (Int, Int, Action, Int) -> Void) {
        var ready = Array((0..<positions.count).reversed())
        var isReady = Array(repeating: true, count: positions.count)
        while let rank = ready.popLast() {
            isReady[rank] = false
            while let (action, unit) = next(rank) {
                let position = positions[rank]
                complete(rank, action, unit) { other in
                    if !isReady[other] {
                        isReady[other] = true
                        ready.append(other)
                    }
                }
                visit(rank, position, action, unit)
            }
        }
    }

    /// What a rank can do next, with the number of its unit; nil at the end of its list and when something is missing.
    func next(_ rank: Int) -> (action: Action, unit: Int)? {
        let position = positions[rank]
        guard position < schedule.ranks[rank].count else { return nil }
        let action = schedule.ranks[rank][position]
        let unit = index.unit(action)
        return need(action, unit) == nil ? (action, unit) : nil
    }

    /// Notes that a rank has done its next action; calls `wake` with other ranks that may have waited for it.
    mutating func complete(_ rank: Int, _ action: Action, _ unit: Int, _ wake: (Int) -> Void) {
        positions[rank] += 1
        record(action, unit)
        forEachListener(action, unit) { listener in
            let other = placement[index.stage(listener)]
            if other != rank { wake(other) }
        }
    }

    private func has(_ slot: Int, _ fact: Fact) -> Bool { facts[slot] & fact.rawValue != 0 }

    /// The first thing an action still waits for.
    func need(_ action: Action, _ unit: Int) -> Need? {
        func missing(_ unit: Int, _ fact: Fact) -> Need? { has(unit, fact) ? nil : Need(unit: unit, fact: fact) }
        func message(_ producer: Int, _ edge: Int, _ own: Fact, _ other: Fact) -> Need? {
            let slot = index.slot(from: producer, edge: edge)
            if !has(slot, own) { return Need(unit: producer, edge: edge, fact: own) }
            return has(slot, other) ? nil : Need(unit: producer, edge: edge, fact: other)
        }
        func input(_ source: Int, _ edge: Int, _ computed: Fact, _ posted: Fact, _ sent: Fact) -> Need? {
            if !schedule.isLowered || placement[index.stage(source)] == placement[action.stage] {
                return missing(source, computed)
            }
            return message(source, edge, posted, sent)
        }
        switch action.kind {
        case .forward:
            if action.chunk > 0, let need = missing(unit - 1, .forward) { return need }
            var need: Need?
            index.forEachSource(action, unit) { source, edge in
                if need == nil { need = input(source, edge, .forward, .postedActivation, .sentActivation) }
            }
            return need
        case .recompute, .sendActivation:
            return missing(unit, .forward)
        case .inputGradient, .backward:
            if let need = missing(unit, .recorded) { return need }
            if action.chunk < index.shape.chunkCount - 1, let need = missing(unit + 1, .inputGradient) { return need }
            var need: Need?
            index.forEachGradientSource(action, unit) { source, edge in
                if need == nil { need = input(source, edge, .inputGradient, .postedGradient, .sentGradient) }
            }
            return need
        case .weightGradient, .sendGradient:
            return missing(unit, .inputGradient)
        case .waitActivation:
            return message(unit, action.edge, .sentActivation, .postedActivation)
        case .waitGradient:
            return message(unit, action.edge, .sentGradient, .postedGradient)
        case .receiveActivation, .receiveGradient, .reduceTied, .reduceReplicas, .step:
            return nil
        }
    }

    private mutating func record(_ action: Action, _ unit: Int) {
        switch action.kind {
        case .forward:
            facts[unit] |= Fact.forward.rawValue | (action.isRecorded ? Fact.recorded.rawValue : 0)
        case .recompute: facts[unit] |= Fact.recorded.rawValue
        case .inputGradient, .backward: facts[unit] |= Fact.inputGradient.rawValue
        case .sendActivation: facts[index.slot(of: action, unit)] |= Fact.sentActivation.rawValue
        case .sendGradient: facts[index.slot(of: action, unit)] |= Fact.sentGradient.rawValue
        case .receiveActivation: facts[index.slot(of: action, unit)] |= Fact.postedActivation.rawValue
        case .receiveGradient: facts[index.slot(of: action, unit)] |= Fact.postedGradient.rawValue
        case .weightGradient, .waitActivation, .waitGradient, .reduceTied, .reduceReplicas, .step: break
        }
    }

    /// Calls `body` with each unit of another stage that may have waited for this action.
    private func forEachListener(_ action: Action, _ unit: Int, _ body: (Int) -> Void) {
        switch action.kind {
        case .forward where !schedule.isLowered: index.forEachTarget(action, unit) { target, _ in body(target) }
        case .inputGradient where !schedule.isLowered, .backward where !schedule.isLowered:
            index.forEachGradientTarget(action, unit) { target, _ in body(target) }
        case .sendActivation, .receiveGradient: body(index.downstream(action, unit, edge: action.edge))
        case .sendGradient, .receiveActivation: body(index.upstream(action, unit, edge: action.edge))
        default: break
        }
    }
}
