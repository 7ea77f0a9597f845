import Kernels

/// Makes the lists of all ranks by running the step in slots of equal length, in which each rank takes the most urgent
/// action that is possible: among forwards and input gradients the one due first; a weight gradient when there is
/// neither.
///
/// Memory is bounded without deadlock: a forward of a stage leaves room for the units that later stages of the rank are
/// promised. With at least `k` of these each (`k` chunks), a stage that has used up its room holds a whole micro-batch,
/// whose backward needs none; so by induction from the last stage on, some action is always possible.
///
/// Linear in the number of actions. Evaluations have forwards only.
struct ListScheduler {
    let shape: ScheduleShape
    let placement: Placement
    /// When each stage's first forward, and first input gradient, is due; unit `i` is due `period · i` later.
    let forwardDue: [Int]
    let inputGradientDue: [Int]
    let period: Int
    /// Most units alive on a rank.
    let capacity: Int
    /// Per stage, units that earlier stages of its rank leave room for.
    let promised: [Int]

    private struct Progress {
        var forwards = 0
        var inputGradients = 0
        var weightGradients = 0
        /// Units whose input, and whose output's gradient, have arrived.
        var inputs = 0
        var outputGradients = 0
        var live: Int { forwards - weightGradients }
    }

    /// The lists and how many slots they take.
    func run() -> (ranks: [[Action]], slots: Int) {
        let units = shape.unitsPerStage
        let last = shape.stageCount - 1
        let isTraining = shape.purpose == .training
        let stages = (0..<placement.rankCount).map(placement.stages)
        var progress = Array(repeating: Progress(), count: shape.stageCount)
        progress[0].inputs = units
        progress[last].outputGradients = units
        var lists = [[Action]](repeating: [], count: placement.rankCount)
        for rank in lists.indices { lists[rank].reserveCapacity((isTraining ? 3 : 1) * stages[rank].count * units) }
        var remaining = (isTraining ? 3 : 1) * shape.unitCount

        // Ranks that something has happened to since the slot before; the others have nothing new to choose.
        var awake = Array(lists.indices)
        var lastWoken = Array(repeating: 0, count: placement.rankCount)
        var slot = 0
        while remaining > 0 {
            slot += 1
            var started: [(kind: Action.Kind, stage: Int)] = []
            for rank in awake {
                guard let choice = choice(stages[rank], progress, isTraining) else { continue }
                started.append(choice)
                lists[rank].append(start(choice.kind, choice.stage, &progress[choice.stage]))
            }
            require(!started.isEmpty, "ListScheduler: got capacity \(capacity); expected room for \(promised)")
            remaining -= started.count
            awake.removeAll(keepingCapacity: true)
            func wake(_ rank: Int) {
                guard lastWoken[rank] < slot else { return }
                lastWoken[rank] = slot
                awake.append(rank)
            }
            for (kind, stage) in started {
                wake(placement.ranks[stage])
                if kind == .forward, stage < last {
                    progress[stage + 1].inputs += 1
                    wake(placement.ranks[stage + 1])
                } else if kind == .inputGradient, stage > 0 {
                    progress[stage - 1].outputGradients += 1
                    wake(placement.ranks[stage - 1])
                }
            }
        }
        return (lists, slot)
    }

    private func start(_ kind: Action.Kind, _ stage: Int, _ progress: inout Progress) -> Action {
        switch kind {
        case .forward:
            progress.forwards += 1
            return Action(
                kind, shape.forwardUnit(stage: stage, progress.forwards - 1), recorded: shape.purpose == .training)
        case .inputGradient:
            progress.inputGradients += 1
            return Action(kind, shape.backwardUnit(stage: stage, progress.inputGradients - 1))
        default:
            progress.weightGradients += 1
            return Action(kind, shape.backwardUnit(stage: stage, progress.weightGradients - 1))
        }
    }

    /// The most urgent possible action of a rank with these stages.
    private func choice(
        _ stages: [Int], _ progress: [Progress], _ isTraining: Bool
    ) -> (kind: Action.Kind, stage: Int)? {
        let units = shape.unitsPerStage
        var room = isTraining ? capacity : .max
        if isTraining { for stage in stages { room -= progress[stage].live } }
        var best: (kind: Action.Kind, stage: Int)?
        var bestDue = Int.max
        for stage in stages.reversed() {
            let state = progress[stage]
            if state.inputGradients < state.outputGradients, isTraining, state.inputGradients < units,
                state.forwards >= (state.inputGradients / shape.chunkCount + 1) * shape.chunkCount
            {
                let due = period * state.inputGradients + inputGradientDue[stage]
                if due < bestDue { (best, bestDue) = ((.inputGradient, stage), due) }
            }
            if state.forwards < min(state.inputs, units), room > 0 {
                let due = period * state.forwards + forwardDue[stage]
                if due < bestDue { (best, bestDue) = ((.forward, stage), due) }
            }
            if isTraining { room -= max(0, promised[stage] - state.live) }
        }
        if best != nil { return best }
        for stage in stages where progress[stage].weightGradients < progress[stage].inputGradients {
            let due = period * progress[stage].weightGradients + inputGradientDue[stage]
            if due < bestDue { (best, bestDue) = ((.weightGradient, stage), due) }
        }
        return best
    }
}

/// Slots that given lists take when every action takes one.
func slots(_ ranks: [[Action]], _ shape: ScheduleShape, _ placement: Placement) -> Int {
    let index = ScheduleIndex(shape)
    var walk = ScheduleWalk(Schedule(name: "timed", shape: shape, placement: placement, ranks: ranks), index)
    var now = [Int32](repeating: 0, count: ranks.count)
    var activationReady = [Int32](repeating: 0, count: shape.unitCount)
    var gradientReady = activationReady
    walk.run { rank, _, action, unit in
        switch action.kind {
        case .forward:
            let source = index.upstream(action, unit, edge: 0)
            now[rank] = max(now[rank], source < 0 ? 0 : activationReady[source]) + 1
            activationReady[unit] = now[rank]
        case .inputGradient:
            let source = index.downstream(action, unit, edge: 0)
            now[rank] = max(now[rank], source < 0 ? 0 : gradientReady[source]) + 1
            gradientReady[unit] = now[rank]
        default: now[rank] += 1
        }
    }
    return Int(now.max()!)
}
