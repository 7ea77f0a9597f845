import Kernels

/// An action and when it ran, in seconds from the beginning of the step.
public struct TimedAction: Hashable, Sendable, BitwiseCopyable {
    public var action: Action
    public var start: Double
    public var end: Double

    public init(action: Action, start: Double, end: Double) {
        self.action = action
        self.start = start
        self.end = end
    }
}

/// One rank's share of a step.
public struct RankUsage: Hashable, Sendable {
    /// Seconds spent computing, reducing and stepping.
    public var busy: Double
    /// Most units with intermediate results alive at once.
    public var peakUnits: Int
    /// Most bytes of intermediate results and kept stage inputs alive at once.
    public var peakBytes: Int
}

/// A predicted step.
public struct Simulation: Sendable {
    /// Seconds from the first action to the last.
    public var makespan: Double
    public var ranks: [RankUsage]
    /// Per rank, in order; empty lists unless asked for.
    public var timeline: [[TimedAction]]

    /// Share of the step, 0...1, in which one rank does nothing.
    public func bubbleFraction(rank: Int) -> Double { makespan > 0 ? 1 - ranks[rank].busy / makespan : 0 }

    /// Idle share of all ranks together.
    public var bubbleFraction: Double {
        guard makespan > 0 else { return 0 }
        return 1 - ranks.reduce(0) { $0 + $1.busy } / (makespan * Double(ranks.count))
    }
}

/// Predicts a step from costs. Works on compute schedules, where a message leaves as soon as it is computed, and on
/// lowered ones, where it also waits for its receive to be posted and `WAIT` holds the rank.
///
/// Each rank does its list in order, so an action begins when the one before it is done and its messages are there: one
/// visit per action in any order that meets the dependencies gives all times, and the same visit proves the schedule.
/// Only ranks that share processors must be followed through time.
public enum Simulator {
    /// - Parameter keepsTimeline: whether to return when each action ran (32 bytes per action).
    /// - Throws: `ScheduleError.illegal` when the schedule is not legal.
    /// - Precondition: one cost per stage.
    public static func simulate(
        _ schedule: Schedule, _ costs: CostModel, keepsTimeline: Bool = false
    ) throws(ScheduleError) -> Simulation {
        require(
            costs.stages.count == schedule.shape.stageCount,
            "Simulator: got costs of \(costs.stages.count) stages; expected \(schedule.shape.stageCount)")
        require(
            costs.skipBytes.map { $0.count == schedule.shape.skips.count } ?? true,
            "Simulator: got sizes of \(costs.skipBytes?.count ?? 0) skips; expected \(schedule.shape.skips.count)")
        let index = ScheduleIndex(schedule.shape)
        var clock = SimulatorClock(schedule, costs, index, keepsTimeline)
        if let processors = costs.processors, processors < schedule.ranks.count {
            require(processors >= 1, "Simulator: got \(processors) processors; expected at least 1")
            try Verifier.verify(schedule)
            var sharing = ProcessorSharing(schedule, index, processors: processors)
            sharing.run(&clock)
        } else {
            let violations = Verifier.violations(in: schedule, index) { rank, _, action, unit in
                clock.run(action, unit, rank)
            }
            if !violations.isEmpty { throw .illegal(schedule: schedule.name, violations: violations) }
        }
        return Simulation(
            makespan: clock.now.max() ?? 0, ranks: clock.usage, timeline: clock.timeline)
    }
}

/// Times of everything that has happened so far.
struct SimulatorClock {
    /// Per message slot, when its send ended and its receive was posted.
    private struct Transfer {
        var sent = 0.0
        var posted = 0.0
    }

    private let costs: CostModel
    private let index: ScheduleIndex
    private let placement: [Int]
    private let isLowered: Bool
    private let keepsTimeline: Bool
    private var activations: [Transfer]
    private var gradients: [Transfer]
    /// Per rank: when it is done with what it has begun.
    private(set) var now: [Double]
    private(set) var usage: [RankUsage]
    private(set) var timeline: [[TimedAction]]
    private var liveUnits: [Int]
    private var liveBytes: [Int]
    /// When the reductions over replicas started so far are done; one after the other, since they share the links.
    private var reduced: [Double]

    init(_ schedule: Schedule, _ costs: CostModel, _ index: ScheduleIndex, _ keepsTimeline: Bool) {
        self.costs = costs
        self.index = index
        self.keepsTimeline = keepsTimeline
        placement = schedule.placement.ranks
        isLowered = schedule.isLowered
        let count = schedule.ranks.count
        now = Array(repeating: 0, count: count)
        usage = Array(repeating: RankUsage(busy: 0, peakUnits: 0, peakBytes: 0), count: count)
        liveUnits = Array(repeating: 0, count: count)
        liveBytes = liveUnits
        reduced = now
        timeline = Array(repeating: [], count: count)
        if keepsTimeline {
            for rank in 0..<count { timeline[rank].reserveCapacity(schedule.ranks[rank].count) }
        }
        activations = Array(repeating: Transfer(), count: index.slotCount)
        gradients = activations
    }

    mutating func run(_ action: Action, _ unit: Int, _ rank: Int) {
        let (start, end) = span(action, unit, rank)
        complete(action, unit, rank, start: start, end: end)
    }

    /// When an action begins and ends if its rank has a processor; all it depends on has happened.
    func span(_ action: Action, _ unit: Int, _ rank: Int) -> (start: Double, end: Double) {
        // A receive is paid for with time of the rank's own, or while it waits for the arrival.
        var work = 0.0
        var arrival = 0.0
        switch action.kind {
        case .forward:
            index.forEachSource(action, unit) { source, edge in
                guard placement[index.stage(source)] != rank else { return }
                let bytes = bytes(edge, from: index.stage(source))
                work += costs.messages.processorSeconds(bytes)
                arrival = max(arrival, self.arrival(activations[index.slot(from: source, edge: edge)], bytes))
            }
        case .inputGradient, .backward:
            index.forEachGradientSource(action, unit) { source, edge in
                guard placement[index.stage(source)] != rank else { return }
                // A gradient has the size of this stage's own output.
                let bytes = bytes(edge, from: action.stage)
                work += costs.messages.processorSeconds(bytes)
                arrival = max(arrival, self.arrival(gradients[index.slot(from: source, edge: edge)], bytes))
            }
        case .waitActivation:
            arrival = self.arrival(activations[index.slot(of: action, unit)], sentBytes(action, unit))
        case .waitGradient:
            arrival = self.arrival(gradients[index.slot(of: action, unit)], sentBytes(action, unit))
        case .reduceTied: arrival = reduced[rank]
        default: break
        }
        let start = max(now[rank] + work, arrival)
        let isSend = action.kind == .sendActivation || action.kind == .sendGradient
        let seconds = isSend ? costs.messages.processorSeconds(sentBytes(action, unit)) : costs.seconds(action)
        return (start, start + seconds)
    }

    mutating func complete(_ action: Action, _ unit: Int, _ rank: Int, start: Double, end: Double) {
        if keepsTimeline { timeline[rank].append(TimedAction(action: action, start: start, end: end)) }
        now[rank] = end
        if !action.kind.isMessage { usage[rank].busy += end - start }
        publish(action, unit, rank)
        account(action, rank)
    }

    private func arrival(_ transfer: Transfer, _ bytes: Int) -> Double {
        costs.messages.arrival(sent: transfer.sent, posted: transfer.posted, bytes)
    }

    /// Size of a message on an edge, by the stage whose output (or its gradient) it carries.
    private func bytes(_ edge: Int, from stage: Int) -> Int {
        guard edge > 0 else { return costs.stages[stage].outputBytes }
        return costs.skipBytes?[edge - 1] ?? costs.stages[index.shape.skips[edge - 1].fromStage].outputBytes
    }

    /// Size of what a SEND or WAIT moves.
    private func sentBytes(_ action: Action, _ unit: Int) -> Int {
        let isActivation = action.kind == .sendActivation || action.kind == .waitActivation
        return bytes(
            action.edge,
            from: isActivation ? action.stage : index.stage(index.upstream(action, unit, edge: action.edge)))
    }

    private mutating func publish(_ action: Action, _ unit: Int, _ rank: Int) {
        let end = now[rank]
        switch action.kind {
        // Before lowering, messages leave one after the other as soon as they are computed.
        case .forward where !isLowered:
            index.forEachTarget(action, unit) { target, edge in
                guard placement[index.stage(target)] != rank else { return }
                now[rank] += costs.messages.processorSeconds(bytes(edge, from: action.stage))
                activations[index.slot(from: unit, edge: edge)].sent = now[rank]
            }
        case .inputGradient where !isLowered, .backward where !isLowered:
            index.forEachGradientTarget(action, unit) { target, edge in
                guard placement[index.stage(target)] != rank else { return }
                now[rank] += costs.messages.processorSeconds(bytes(edge, from: index.stage(target)))
                gradients[index.slot(from: unit, edge: edge)].sent = now[rank]
            }
        case .sendActivation: activations[index.slot(of: action, unit)].sent = end
        case .sendGradient: gradients[index.slot(of: action, unit)].sent = end
        case .receiveActivation: activations[index.slot(of: action, unit)].posted = end
        case .receiveGradient: gradients[index.slot(of: action, unit)].posted = end
        case .reduceReplicas:
            reduced[rank] = max(reduced[rank], end) + costs.stages[action.stage].reduceReplicas
        default: break
        }
    }

    private mutating func account(_ action: Action, _ rank: Int) {
        guard action.kind.isCompute else { return }
        let stage = costs.stages[action.stage]
        switch action.kind {
        case .forward where action.isRecorded:
            liveUnits[rank] += 1
            liveBytes[rank] += stage.activationBytes
        case .forward where index.hasBackward[action.stage]: liveBytes[rank] += stage.inputBytes
        case .recompute:
            liveUnits[rank] += 1
            // What is recomputed includes the input, no longer kept apart.
            liveBytes[rank] += stage.activationBytes - stage.inputBytes
        case .inputGradient: liveBytes[rank] += stage.gradientBytes
        case .weightGradient:
            liveUnits[rank] -= 1
            liveBytes[rank] -= stage.activationBytes + stage.gradientBytes
        case .backward:
            usage[rank].peakBytes = max(usage[rank].peakBytes, liveBytes[rank] + stage.gradientBytes)
            liveUnits[rank] -= 1
            liveBytes[rank] -= stage.activationBytes
        default: break
        }
        usage[rank].peakUnits = max(usage[rank].peakUnits, liveUnits[rank])
        usage[rank].peakBytes = max(usage[rank].peakBytes, liveBytes[rank])
    }
}
