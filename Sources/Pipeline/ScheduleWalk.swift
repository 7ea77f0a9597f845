/// Runs the lists of all ranks against each other, without time, as far as dependencies allow.
///
/// Every action is visited after everything it depends on. A rank that is left in front of an action at the end
/// waits for something that never happens: that is a deadlock. Transfers are treated as rendezvous, the strictest
/// behaviour a transport may show: a send completes only once its receive has been posted. Linear in the number of
/// actions, since each rank's order is fixed and nobody else can overtake inside it.
///
/// - Precondition: every unit lies in the shape and on the rank that holds its stage.
struct ScheduleWalk {
    /// Facts about a unit. `posted*` concern the receive of what this unit *produced*.
    enum Fact: UInt8 {
        case forward = 1
        case recorded = 2
        case inputGradient = 4
        case sentActivation = 8
        case sentGradient = 16
        case postedActivation = 32
        case postedGradient = 64
    }

    /// What a blocked action lacks.
    struct Need {
        var unit: Int
        var fact: Fact
    }

    private let schedule: Schedule
    private let shape: ScheduleShape
    private let placement: [Int]
    private let stageStride: Int
    private var facts: [UInt8]
    /// Position of each rank in its list.
    private(set) var positions: [Int]

    init(_ schedule: Schedule) {
        self.schedule = schedule
        shape = schedule.shape
        placement = schedule.placement.ranks
        stageStride = schedule.shape.unitsPerStage
        facts = Array(repeating: 0, count: schedule.shape.unitCount)
        positions = Array(repeating: 0, count: schedule.ranks.count)
    }

    /// Visits each action that can run. `visit` receives rank, position, action and the unit's index.
    mutating func run(_ visit: (Int, Int, Action, Int) -> Void) {
        var ready = Array((0..<positions.count).reversed())
        var isReady = Array(repeating: true, count: positions.count)
        while let rank = ready.popLast() {
            isReady[rank] = false
            let actions = schedule.ranks[rank]
            var position = positions[rank]
            while position < actions.count {
                let action = actions[position]
                let index = unitIndex(action)
                if need(action, index) != nil { break }
                visit(rank, position, action, index)
                position += 1
                record(action, index)
                for neighbour in [upstream(action, index), downstream(action, index)] where neighbour >= 0 {
                    let other = placement[neighbour / stageStride]
                    if other != rank, !isReady[other] {
                        isReady[other] = true
                        ready.append(other)
                    }
                }
            }
            positions[rank] = position
        }
    }

    func unitIndex(_ action: Action) -> Int {
        ((action.stage * shape.recursionCount + action.recursion) * shape.microBatchCount + action.microBatch)
            * shape.chunkCount + action.chunk
    }

    /// Index of the unit that feeds this one, or −1.
    func upstream(_ action: Action, _ index: Int) -> Int {
        if action.stage > 0 { return index - stageStride }
        guard action.recursion > 0 else { return -1 }
        return index + (shape.stageCount - 1) * stageStride - shape.microBatchCount * shape.chunkCount
    }

    /// Index of the unit that this one feeds, or −1.
    func downstream(_ action: Action, _ index: Int) -> Int {
        if action.stage < shape.stageCount - 1 { return index + stageStride }
        guard action.recursion < shape.recursionCount - 1 else { return -1 }
        return index - (shape.stageCount - 1) * stageStride + shape.microBatchCount * shape.chunkCount
    }

    private func has(_ unit: Int, _ fact: Fact) -> Bool { facts[unit] & fact.rawValue != 0 }

    /// The first thing an action still waits for.
    func need(_ action: Action, _ index: Int) -> Need? {
        func missing(_ unit: Int, _ fact: Fact) -> Need? { has(unit, fact) ? nil : Need(unit: unit, fact: fact) }
        func message(_ unit: Int, _ computed: Fact, _ posted: Fact, _ sent: Fact) -> Need? {
            if !schedule.isLowered || placement[unit / stageStride] == placement[action.stage] {
                return missing(unit, computed)
            }
            return missing(unit, posted) ?? missing(unit, sent)
        }
        switch action.kind {
        case .forward:
            if action.chunk > 0, let need = missing(index - 1, .forward) { return need }
            let source = upstream(action, index)
            return source < 0 ? nil : message(source, .forward, .postedActivation, .sentActivation)
        case .recompute, .sendActivation:
            return missing(index, .forward)
        case .inputGradient, .backward:
            if let need = missing(index, .recorded) { return need }
            if action.chunk < shape.chunkCount - 1, let need = missing(index + 1, .inputGradient) { return need }
            let source = downstream(action, index)
            return source < 0 ? nil : message(source, .inputGradient, .postedGradient, .sentGradient)
        case .weightGradient, .sendGradient:
            return missing(index, .inputGradient)
        case .waitActivation:
            return missing(index, .sentActivation) ?? missing(index, .postedActivation)
        case .waitGradient:
            return missing(index, .sentGradient) ?? missing(index, .postedGradient)
        case .receiveActivation, .receiveGradient, .reduceTied, .reduceReplicas, .step:
            return nil
        }
    }

    private mutating func record(_ action: Action, _ index: Int) {
        switch action.kind {
        case .forward:
            facts[index] |= Fact.forward.rawValue | (action.isRecorded ? Fact.recorded.rawValue : 0)
        case .recompute: facts[index] |= Fact.recorded.rawValue
        case .inputGradient, .backward: facts[index] |= Fact.inputGradient.rawValue
        case .sendActivation: facts[index] |= Fact.sentActivation.rawValue
        case .sendGradient: facts[index] |= Fact.sentGradient.rawValue
        case .receiveActivation: facts[upstream(action, index)] |= Fact.postedActivation.rawValue
        case .receiveGradient: facts[downstream(action, index)] |= Fact.postedGradient.rawValue
        case .weightGradient, .waitActivation, .waitGradient, .reduceTied, .reduceReplicas, .step: break
        }
    }
}
