import Pipeline

/// Legal schedules of no particular sense: any placement, skips, forward-only stages, chunks, split or joint backwards, recomputes,
/// in any order that the values and the order of accumulation allow.
public enum RandomSchedule {
    /// Sizes, skips and forward-only stages are random too.
    public static func compute(seed: UInt64) -> Schedule {
        var random = SplitMix(state: seed)
        let placement = placement(rankCount: 1 + random.below(3), &random)
        let stageCount = placement.stageCount
        let skips = (0..<(stageCount > 1 ? random.below(3) : 0)).map { _ in
            let from = random.below(stageCount - 1)
            return SkipEdge(fromStage: from, toStage: from + 1 + random.below(stageCount - 1 - from))
        }
        let shape = ScheduleShape(
            stageCount: stageCount, microBatchCount: 1 + random.below(3), chunkCount: 1 + random.below(2),
            skips: skips,
            forwardOnly: random.below(3) == 0 ? Set((0..<stageCount).filter { _ in random.below(2) == 0 }) : [])
        return compute(shape, placement, &random)
    }

    /// Any placement on the ranks, up to two more stages than ranks.
    public static func compute(seed: UInt64, rankCount: Int, microBatchCount: Int, chunkCount: Int) -> Schedule {
        var random = SplitMix(state: seed)
        let placement = placement(rankCount: rankCount, &random)
        let shape = ScheduleShape(
            stageCount: placement.stageCount, microBatchCount: microBatchCount, chunkCount: chunkCount)
        return compute(shape, placement, &random)
    }

    private static func placement(rankCount: Int, _ random: inout SplitMix) -> Placement {
        var ranks = Array(0..<rankCount) + (0..<random.below(3)).map { _ in random.below(rankCount) }
        ranks.shuffle(using: &random)
        return Placement(ranks: ranks)
    }

    private static func compute(
        _ shape: ScheduleShape, _ placement: Placement, _ random: inout SplitMix
    ) -> Schedule {
        var remaining = (0..<shape.unitCount).flatMap { index -> [Action] in
            let unit = shape.unit(at: index)
            guard shape.hasBackward(unit.stage) else { return [Action(.forward, unit, recorded: false)] }
            let isRecorded = random.below(3) > 0
            return [Action(.forward, unit, recorded: isRecorded)] + (isRecorded ? [] : [Action(.recompute, unit)])
                + (random.below(2) == 0
                    ? [Action(.backward, unit)] : [Action(.inputGradient, unit), Action(.weightGradient, unit)])
        }
        var done: Set<String> = []
        var ranks = [[Action]](repeating: [], count: placement.rankCount)
        while !remaining.isEmpty {
            let ready = remaining.indices.filter { needs(remaining[$0], shape).isSubset(of: done) }
            let action = remaining.remove(at: ready[random.below(ready.count)])
            ranks[placement.ranks[action.stage]].append(action)
            let words: [String] =
                switch action.kind {
                case .backward: ["I", "W"]
                case .forward: action.isRecorded ? ["F", "kept"] : ["F"]
                case .recompute: ["kept"]
                default: [action.kind.text]
                }
            for word in words { done.insert("\(word) \(action.unit)") }
        }
        var schedule = Schedule(
            name: "random", shape: shape, placement: placement, ranks: ranks)
        schedule.peakUnits = ranks.map(peak)
        return schedule
    }

    /// What must have happened before an action, as words.
    private static func needs(_ action: Action, _ shape: ScheduleShape) -> Set<String> {
        let unit = action.unit
        var needs: Set<String> = []
        func need(_ word: String, _ change: (inout UnitOfWork) -> Void) {
            var other = unit
            change(&other)
            needs.insert("\(word) \(other)")
        }
        switch action.kind {
        case .forward:
            if unit.chunk > 0 { need("F") { $0.chunk -= 1 } }
            for edge in 0...shape.skips.count {
                if let other = shape.upstream(of: unit, edge: edge) { needs.insert("F \(other)") }
            }
        case .recompute: need("F") { _ in }
        case .inputGradient, .backward:
            need("kept") { _ in }
            if unit.chunk < shape.chunkCount - 1 { need("I") { $0.chunk += 1 } }
            for edge in 0...shape.skips.count {
                guard let other = shape.downstream(of: unit, edge: edge), shape.hasBackward(other.stage) else {
                    continue
                }
                needs.insert("I \(other)")
            }
        default: need("I") { _ in }
        }
        // The order of accumulation.
        let halves: [String] =
            switch action.kind {
            case .inputGradient: ["I"]
            case .weightGradient: ["W"]
            case .backward: ["I", "W"]
            default: []
            }
        for half in halves {
            if unit.chunk < shape.chunkCount - 1 {
                need(half) { $0.chunk += 1 }
            } else if unit.microBatch > 0 {
                need(half) {
                    $0.microBatch -= 1
                    $0.chunk = 0
                }
            }
        }
        return needs
    }

    private static func peak(_ actions: [Action]) -> Int {
        var live = 0
        var peak = 0
        for action in actions {
            switch action.kind {
            case .forward where action.isRecorded, .recompute: live += 1
            case .weightGradient, .backward: live -= 1
            default: break
            }
            peak = max(peak, live)
        }
        return peak
    }
}
