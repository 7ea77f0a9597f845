import Kernels

/// Bounds on what communication may be in flight. A message is one unit's activation or gradient.
public struct LoweringOptions: Hashable, Sendable {
    /// A receive is posted this many compute actions before the one that needs it, so that its transfer overlaps
    /// them; also the most buffers that lie ready beyond the one in use.
    public var receiveLookAhead: Int
    /// Sends of one stage and direction that may be under way before the oldest is waited for.
    public var sendWindow: Int
    /// Whether gradients are summed over replicas before the optimiser step.
    public var reducesReplicas: Bool

    public init(receiveLookAhead: Int = 4, sendWindow: Int = 4, reducesReplicas: Bool = false) {
        self.receiveLookAhead = receiveLookAhead
        self.sendWindow = sendWindow
        self.reducesReplicas = reducesReplicas
    }
}

/// Adds communication to a schedule of compute actions.
///
/// Between stages on different ranks each unit's output and input gradient become a `SEND` right after the action
/// that makes them, a `RECV` before the action that needs them, and a `WAIT` that gives the send buffer back. Stages
/// on one rank hand over in memory and get none. A training step ends with `REDUCE_TIED`, `REDUCE_DP` if asked for,
/// and `STEP` on every rank.
///
/// Why the result cannot deadlock, even if a send completes only when its receive is posted: give each compute action
/// the level "1 + highest level among what it depends on, its predecessor on the rank included". Receives never
/// block, and stand before the waits of the same place. A wait stands before an action whose level is higher than that
/// of everything its receive comes after. So the action of lowest level can always run. Without this rule a wait
/// after a fixed number of sends can deadlock in schedules that visit a rank twice (V shape).
public enum Lowering {
    /// - Throws: `ScheduleError.illegal` when the compute schedule is not legal or already has communication.
    public static func lower(
        _ schedule: Schedule, options: LoweringOptions = LoweringOptions()
    ) throws(ScheduleError) -> Schedule {
        require(
            options.receiveLookAhead >= 0 && options.sendWindow >= 1,
            "Lowering: got look-ahead \(options.receiveLookAhead), window \(options.sendWindow); expected ≥ 0, ≥ 1")
        require(!schedule.isLowered, "Lowering: got a lowered schedule '\(schedule.name)'; expected compute actions")
        try Verifier.verify(schedule)
        let plan = MessagePlan(schedule, options)
        var lowered = schedule
        lowered.isLowered = true
        for rank in schedule.ranks.indices {
            lowered.ranks[rank] = plan.actions(of: rank)
        }
        return lowered
    }
}

/// Levels of all compute actions and, per message, the level after which its receive is posted.
private struct MessagePlan {
    let schedule: Schedule
    let options: LoweringOptions
    let walk: ScheduleWalk
    /// Ascending within a rank.
    var levels: [[Int32]]
    /// Indexed by producing unit; 0 where the receive is posted before any compute action.
    var activationPostLevel: [Int32]
    var gradientPostLevel: [Int32]

    init(_ schedule: Schedule, _ options: LoweringOptions) {
        self.schedule = schedule
        self.options = options
        let shape = schedule.shape
        let placement = schedule.placement.ranks
        let stride = shape.unitsPerStage
        var walk = ScheduleWalk(schedule)
        let fixed = walk
        var levels = schedule.ranks.map { [Int32](repeating: 0, count: $0.count) }
        var forwardLevel = [Int32](repeating: 0, count: shape.unitCount)
        var gradientLevel = forwardLevel
        var activationPost = forwardLevel
        var gradientPost = forwardLevel
        walk.run { rank, position, action, index in
            var level = position > 0 ? levels[rank][position - 1] : 0
            let slot = position - options.receiveLookAhead
            let postLevel = slot > 0 ? levels[rank][slot - 1] : 0
            switch action.kind {
            case .forward:
                let source = fixed.upstream(action, index)
                if source >= 0, placement[source / stride] != rank {
                    level = max(level, forwardLevel[source])
                    activationPost[source] = postLevel
                }
                forwardLevel[index] = level + 1
            case .inputGradient, .backward:
                let source = fixed.downstream(action, index)
                if source >= 0, placement[source / stride] != rank {
                    level = max(level, gradientLevel[source])
                    gradientPost[source] = postLevel
                }
                gradientLevel[index] = level + 1
            default: break
            }
            levels[rank][position] = level + 1
        }
        self.walk = fixed
        self.levels = levels
        activationPostLevel = activationPost
        gradientPostLevel = gradientPost
    }

    /// One rank's list: before each compute action the receives then the waits due there, after it its send.
    func actions(of rank: Int) -> [Action] {
        let compute = schedule.ranks[rank]
        let receives = receives(of: rank)
        let waits = waits(of: rank)
        var result: [Action] = []
        result.reserveCapacity(compute.count + receives.count + 2 * waits.count + 3)
        var nextReceive = 0
        var nextWait = 0
        for slot in 0...compute.count {
            while nextReceive < receives.count, receives[nextReceive].slot == slot {
                result.append(receives[nextReceive].action)
                nextReceive += 1
            }
            while nextWait < waits.count, waits[nextWait].slot == slot {
                result.append(waits[nextWait].action)
                nextWait += 1
            }
            guard slot < compute.count else { break }
            result.append(compute[slot])
            if let send = send(compute[slot], rank) { result.append(Action(send.kind, compute[slot].unit)) }
        }
        if schedule.shape.purpose == .training {
            result.append(Action(.reduceTied))
            if options.reducesReplicas { result.append(Action(.reduceReplicas)) }
            result.append(Action(.step))
        }
        return result
    }

    private func isRemote(_ unit: Int, _ rank: Int) -> Bool {
        unit >= 0 && schedule.placement.ranks[unit / schedule.shape.unitsPerStage] != rank
    }

    private func receives(of rank: Int) -> [(slot: Int, action: Action)] {
        var result: [(slot: Int, action: Action)] = []
        for (position, action) in schedule.ranks[rank].enumerated() {
            let index = walk.unitIndex(action)
            let slot = max(0, position - options.receiveLookAhead)
            switch action.kind {
            case .forward where isRemote(walk.upstream(action, index), rank):
                result.append((slot, Action(.receiveActivation, action.unit)))
            case .inputGradient, .backward:
                guard isRemote(walk.downstream(action, index), rank) else { continue }
                result.append((slot, Action(.receiveGradient, action.unit)))
            default: break
            }
        }
        return result
    }

    /// The send that follows a compute action, its wait, and the level after which its receive is posted.
    private func send(
        _ action: Action, _ rank: Int
    ) -> (kind: Action.Kind, wait: Action.Kind, postLevel: Int32)? {
        let index = walk.unitIndex(action)
        switch action.kind {
        case .forward where isRemote(walk.downstream(action, index), rank):
            return (.sendActivation, .waitActivation, activationPostLevel[index])
        case .inputGradient, .backward:
            guard isRemote(walk.upstream(action, index), rank) else { return nil }
            return (.sendGradient, .waitGradient, gradientPostLevel[index])
        default: return nil
        }
    }

    private func waits(of rank: Int) -> [(slot: Int, action: Action)] {
        let compute = schedule.ranks[rank]
        let levels = levels[rank]
        // Positions of the sends of each stage and direction: activations at 2·stage, gradients at 2·stage + 1.
        var channels = [[Int]](repeating: [], count: 2 * schedule.shape.stageCount)
        for (position, action) in compute.enumerated() {
            guard let send = send(action, rank) else { continue }
            channels[2 * action.stage + (send.kind == .sendActivation ? 0 : 1)].append(position)
        }
        var result: [(slot: Int, action: Action)] = []
        for channel in channels {
            for (order, position) in channel.enumerated() {
                let send = send(compute[position], rank)!
                let due = order + options.sendWindow
                let earliest = due < channel.count ? channel[due] : compute.count
                let slot = firstPosition(from: earliest, above: send.postLevel, levels)
                result.append((slot, Action(send.wait, compute[position].unit)))
            }
        }
        // By slot, then as collected, so that the list does not depend on the sorting algorithm.
        return result.enumerated()
            .sorted { ($0.element.slot, $0.offset) < ($1.element.slot, $1.offset) }.map(\.element)
    }

    /// First position ≥ `start` whose level exceeds `level`; the list's length when there is none.
    private func firstPosition(from start: Int, above level: Int32, _ levels: [Int32]) -> Int {
        var low = start
        var high = levels.count
        while low < high {
            let middle = (low + high) / 2
            if levels[middle] > level { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
