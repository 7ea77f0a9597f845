import Kernels

/// Bounds on what communication may be in flight. A message is one unit's activation or gradient.
public struct LoweringOptions: Hashable, Sendable {
    /// A receive is posted this many compute actions before the one that needs it, so that its transfer overlaps
    /// them; also the most buffers that lie ready beyond the one in use.
    public var receiveLookAhead: Int
    /// Sends of one stage, direction and edge that may be under way before the oldest is waited for.
    public var sendWindow: Int
    /// Whether each stage's gradients are summed over replicas before the optimiser step.
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
/// that makes them, a `RECV` before the action that needs them, and a `WAIT` that gives the send buffer back: once for
/// the line of stages and once for every skip, which goes straight to its stage. Stages on one rank hand over in memory
/// and get none. A training step ends with `REDUCE_TIED` and `STEP` on every rank. `REDUCE_DP`, if asked for, follows the
/// last weight gradient of its stage (a stage without any has none), so that gradients travel between replicas while the pipeline drains.
///
/// Why the result cannot deadlock, even if a send completes only when its receive is posted. Give each compute action
/// the level "1 + highest level among what it depends on, its predecessor on the rank included"; dependencies along
/// all edges count, so levels exist however many skips there are, and say nothing about where an edge leads. Every
/// receive stands right after a compute action (or at the head of the list), whose level is its post level. A wait
/// stands where every later compute action of its rank has a higher level than the post level of the receive it waits
/// for. Suppose some lists are stuck, and take, of the compute actions not yet run, one of lowest level `n`: all it
/// depends on has run, and so have the sends right behind that, since sends do not block. Its own receives stand before
/// it. So only a wait in front of it on its rank can hold it. What that wait waits for was sent earlier on the rank;
/// its receive comes right after a compute action of level below `n`, which has run, and among receives and waits of
/// one place the receives come first, so it has been posted. Hence nothing holds the action. At the end of the lists the
/// same holds with nothing left to run. Without this rule a wait after a fixed number of sends can deadlock in
/// schedules that visit a rank twice (V shape), or where a skip's source runs far ahead of its target.
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
        lowered.reducesReplicas = options.reducesReplicas && schedule.shape.purpose == .training
        for rank in schedule.ranks.indices {
            lowered.ranks[rank] = plan.actions(of: rank)
        }
        return lowered
    }
}

/// Levels of all compute actions and, per message, the level after which its receive is posted.
private struct MessagePlan {
    /// What follows a compute action: a message, and when its buffer may be waited for.
    private struct Send {
        var position: Int
        var action: Action
        var wait: Action
        var postLevel: Int32
    }

    let schedule: Schedule
    let options: LoweringOptions
    let index: ScheduleIndex
    /// Ascending within a rank.
    private var levels: [[Int32]]
    /// Indexed by message slot; 0 where the receive is posted before any compute action.
    private var activationPostLevel: [Int32]
    private var gradientPostLevel: [Int32]
    /// Place of each stage among those of its rank.
    private let localStage: [Int]

    init(_ schedule: Schedule, _ options: LoweringOptions) {
        self.schedule = schedule
        self.options = options
        let index = ScheduleIndex(schedule.shape)
        self.index = index
        let placement = schedule.placement.ranks
        var stagesSeen = [Int](repeating: 0, count: schedule.ranks.count)
        localStage = placement.map { rank in
            defer { stagesSeen[rank] += 1 }
            return stagesSeen[rank]
        }
        var levels = schedule.ranks.map { [Int32](repeating: 0, count: $0.count) }
        var forwardLevel = [Int32](repeating: 0, count: index.unitCount)
        var gradientLevel = forwardLevel
        var activationPost = [Int32](repeating: 0, count: index.slotCount)
        var gradientPost = activationPost
        var walk = ScheduleWalk(schedule, index)
        walk.run { rank, position, action, unit in
            var level = position > 0 ? levels[rank][position - 1] : 0
            let slot = position - options.receiveLookAhead
            let postLevel = slot > 0 ? levels[rank][slot - 1] : 0
            switch action.kind {
            case .forward:
                index.forEachSource(action, unit) { source, edge in
                    guard placement[index.stage(source)] != rank else { return }
                    level = max(level, forwardLevel[source])
                    activationPost[index.slot(from: source, edge: edge)] = postLevel
                }
                forwardLevel[unit] = level + 1
            case .inputGradient, .backward:
                index.forEachGradientSource(action, unit) { source, edge in
                    guard placement[index.stage(source)] != rank else { return }
                    level = max(level, gradientLevel[source])
                    gradientPost[index.slot(from: source, edge: edge)] = postLevel
                }
                gradientLevel[unit] = level + 1
            default: break
            }
            levels[rank][position] = level + 1
        }
        self.levels = levels
        activationPostLevel = activationPost
        gradientPostLevel = gradientPost
    }

    /// One rank's list: before each compute action the receives then the waits due there, after it its sends.
    func actions(of rank: Int) -> [Action] {
        let compute = schedule.ranks[rank]
        let receives = receives(of: rank)
        let sends = sends(of: rank)
        let waits = waits(sends, rank)
        var result: [Action] = []
        let reductions = reductions(of: rank)
        result.reserveCapacity(compute.count + receives.count + 2 * sends.count + reductions.count + 2)
        var nextReceive = 0
        var nextWait = 0
        var nextSend = 0
        var nextReduction = 0
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
            while nextSend < sends.count, sends[nextSend].position == slot {
                result.append(sends[nextSend].action)
                nextSend += 1
            }
            if nextReduction < reductions.count, reductions[nextReduction].position == slot {
                result.append(.reduceReplicas(stage: reductions[nextReduction].stage))
                nextReduction += 1
            }
        }
        if schedule.shape.purpose == .training {
            result.append(Action(.reduceTied))
            result.append(Action(.step))
        }
        return result
    }

    /// Position of the last weight gradient of each stage of a rank that has any, ascending; none without replicas.
    private func reductions(of rank: Int) -> [(position: Int, stage: Int)] {
        guard options.reducesReplicas else { return [] }
        return schedule.placement.stages(of: rank).filter { index.hasBackward[$0] }.map { stage in
            let last = schedule.ranks[rank].lastIndex {
                $0.stage == stage && ($0.kind == .weightGradient || $0.kind == .backward)
            }
            return (last!, stage)
        }.sorted { $0.position < $1.position }
    }

    private func isRemote(_ unit: Int, _ rank: Int) -> Bool {
        schedule.placement.ranks[index.stage(unit)] != rank
    }

    private func receives(of rank: Int) -> [(slot: Int, action: Action)] {
        var result: [(slot: Int, action: Action)] = []
        for (position, action) in schedule.ranks[rank].enumerated() {
            let unit = index.unit(action)
            let slot = max(0, position - options.receiveLookAhead)
            switch action.kind {
            case .forward:
                index.forEachSource(action, unit) { source, edge in
                    guard isRemote(source, rank) else { return }
                    result.append((slot, Action(.receiveActivation, action.unit, edge: edge)))
                }
            case .inputGradient, .backward:
                index.forEachGradientSource(action, unit) { source, edge in
                    guard isRemote(source, rank) else { return }
                    result.append((slot, Action(.receiveGradient, action.unit, edge: edge)))
                }
            default: break
            }
        }
        return result
    }

    private func sends(of rank: Int) -> [Send] {
        var result: [Send] = []
        for (position, action) in schedule.ranks[rank].enumerated() {
            let unit = index.unit(action)
            func append(_ kind: Action.Kind, _ wait: Action.Kind, _ edge: Int, _ postLevels: [Int32]) {
                result.append(
                    Send(
                        position: position, action: Action(kind, action.unit, edge: edge),
                        wait: Action(wait, action.unit, edge: edge),
                        postLevel: postLevels[index.slot(from: unit, edge: edge)]))
            }
            switch action.kind {
            case .forward:
                index.forEachTarget(action, unit) { target, edge in
                    if isRemote(target, rank) { append(.sendActivation, .waitActivation, edge, activationPostLevel) }
                }
            case .inputGradient, .backward:
                index.forEachGradientTarget(action, unit) { target, edge in
                    if isRemote(target, rank) { append(.sendGradient, .waitGradient, edge, gradientPostLevel) }
                }
            default: break
            }
        }
        return result
    }

    private func waits(_ sends: [Send], _ rank: Int) -> [(slot: Int, action: Action)] {
        let levels = levels[rank]
        let edgeCount = schedule.shape.skips.count + 1
        // Sends of each stage, direction and edge.
        var channels = [[Int]](repeating: [], count: 2 * edgeCount * schedule.placement.stages(of: rank).count)
        for (order, send) in sends.enumerated() {
            let direction = send.action.kind == .sendActivation ? 0 : 1
            channels[(2 * localStage[send.action.stage] + direction) * edgeCount + send.action.edge].append(order)
        }
        var result: [(slot: Int, action: Action)] = []
        for channel in channels {
            for (order, number) in channel.enumerated() {
                let due = order + options.sendWindow
                let earliest = due < channel.count ? sends[channel[due]].position : levels.count
                let slot = firstPosition(from: earliest, above: sends[number].postLevel, levels)
                result.append((slot, sends[number].wait))
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
