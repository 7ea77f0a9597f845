import Pipeline

/// Legal schedules that no generator would make: any placement, any order that dependencies and the order of gradient
/// accumulation allow, fused and split backwards, forwards recorded and not, in any mixture.
struct RandomSchedule {
    /// How far each unit has come.
    private struct Progress {
        var isForwarded = false
        var isRecorded = false
        var hasInputGradient = false
        var hasWeightGradient = false
    }

    private let shape: ScheduleShape
    private var random: SplitMix
    private var progress: [Progress]
    /// Units of each stage with weight gradients.
    private var accumulated: [Int]

    /// The same seed gives the same schedule.
    /// - Parameter rankCount: ranks that the stages are spread over, at most as many as there are stages.
    static func make(
        seed: UInt64, rankCount: Int, stageCount: Int, microBatchCount: Int, chunkCount: Int
    ) -> Schedule {
        let shape = ScheduleShape(
            stageCount: stageCount, microBatchCount: microBatchCount, chunkCount: chunkCount)
        var generator = RandomSchedule(shape, seed)
        let placement = generator.placement(rankCount)
        return Schedule(
            name: "random-\(seed)", shape: shape, placement: placement, ranks: generator.lists(placement))
    }

    private init(_ shape: ScheduleShape, _ seed: UInt64) {
        self.shape = shape
        random = SplitMix(state: seed)
        progress = Array(repeating: Progress(), count: shape.unitCount)
        accumulated = Array(repeating: 0, count: shape.stageCount)
    }

    /// Every rank gets a stage, the others fall anywhere.
    private mutating func placement(_ rankCount: Int) -> Placement {
        var ranks = Array(0..<rankCount)
        while ranks.count < shape.stageCount { ranks.append(random.below(rankCount)) }
        for last in ranks.indices.dropFirst().reversed() { ranks.swapAt(last, random.below(last + 1)) }
        return Placement(ranks: ranks)
    }

    private mutating func lists(_ placement: Placement) -> [[Action]] {
        // Drawn once per schedule, so that one has all its weight gradients late, another few units alive.
        let eagerness = Action.Kind.allCases.map { _ in 1 + random.below(100) }
        var lists = [[Action]](repeating: [], count: placement.rankCount)
        while true {
            let possible = (0..<shape.unitCount).flatMap { actions(shape.unit(at: $0)) }
            guard !possible.isEmpty else { return lists }
            let lots = possible.map { random.below(1000) * eagerness[Int($0.kind.rawValue)] }
            let action = possible[lots.indices.max { lots[$0] < lots[$1] }!]
            run(action)
            lists[placement.ranks[action.stage]].append(action)
        }
    }

    private func has(_ unit: UnitOfWork?, _ fact: (Progress) -> Bool) -> Bool {
        unit.map { fact(progress[shape.index(of: $0)]) } ?? true
    }

    /// What can be done next with a unit.
    private func actions(_ unit: UnitOfWork) -> [Action] {
        let state = progress[shape.index(of: unit)]
        var before = unit
        before.chunk -= 1
        var after = unit
        after.chunk += 1
        if !state.isForwarded {
            let isPossible =
                has(shape.upstream(of: unit)) { $0.isForwarded } && (unit.chunk == 0 || has(before) { $0.isForwarded })
            return isPossible ? [Action(.forward, unit), Action(.forward, unit, recorded: false)] : []
        }
        let order = unit.microBatch * shape.chunkCount + shape.chunkCount - 1 - unit.chunk
        let isNext = accumulated[unit.stage] == order
        if state.hasInputGradient {
            return isNext && !state.hasWeightGradient ? [Action(.weightGradient, unit)] : []
        }
        guard state.isRecorded else { return [Action(.recompute, unit)] }
        let isPossible =
            has(shape.downstream(of: unit)) { $0.hasInputGradient }
            && (unit.chunk == shape.chunkCount - 1 || has(after) { $0.hasInputGradient })
        guard isPossible else { return [] }
        return [Action(.inputGradient, unit)] + (isNext ? [Action(.backward, unit)] : [])
    }

    private mutating func run(_ action: Action) {
        let index = shape.index(of: action.unit)
        switch action.kind {
        case .forward:
            progress[index].isForwarded = true
            progress[index].isRecorded = action.isRecorded
        case .recompute: progress[index].isRecorded = true
        case .inputGradient: progress[index].hasInputGradient = true
        default:
            progress[index].hasInputGradient = true
            progress[index].hasWeightGradient = true
            accumulated[action.stage] += 1
        }
    }
}
