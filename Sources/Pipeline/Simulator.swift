import Kernels

/// What one stage's work on one unit (a micro-batch's chunk) costs.
public struct StageCost: Hashable, Sendable {
    /// Seconds.
    public var forward: Double
    public var inputGradient: Double
    public var weightGradient: Double
    public var recompute: Double
    /// Size of the activation handed to the next stage, and of the gradient that comes back; bytes.
    public var outputBytes: Int
    /// Intermediate results kept by a recorded forward until the weight gradient; bytes.
    public var activationBytes: Int
    /// What an unrecorded forward keeps for its recompute (stage input and carry); bytes.
    public var inputBytes: Int
    /// Seconds to sum the stage's gradients over replicas, once per step, beside other work.
    public var reduceReplicas: Double

    /// - Parameter recompute: nil means as long as `forward`.
    public init(
        forward: Double, inputGradient: Double, weightGradient: Double, recompute: Double? = nil,
        outputBytes: Int = 0, activationBytes: Int = 0, inputBytes: Int = 0, reduceReplicas: Double = 0
    ) {
        self.forward = forward
        self.inputGradient = inputGradient
        self.weightGradient = weightGradient
        self.recompute = recompute ?? forward
        self.outputBytes = outputBytes
        self.activationBytes = activationBytes
        self.inputBytes = inputBytes
        self.reduceReplicas = reduceReplicas
    }
}

/// What everything costs. Messages take `latency + bytes / bandwidth` seconds, however many are under way; they need
/// no processor time.
public struct CostModel: Hashable, Sendable {
    /// One per stage.
    public var stages: [StageCost]
    /// Seconds per message.
    public var latency: Double
    /// Bytes per second.
    public var bandwidth: Double
    /// Size of each skip's message; nil takes the `outputBytes` of the stage where it begins.
    public var skipBytes: [Int]?
    /// Seconds on each rank.
    public var reduceTied: Double
    public var step: Double

    public init(
        stages: [StageCost], latency: Double = 0, bandwidth: Double = .infinity, skipBytes: [Int]? = nil,
        reduceTied: Double = 0, step: Double = 0
    ) {
        self.stages = stages
        self.latency = latency
        self.bandwidth = bandwidth
        self.skipBytes = skipBytes
        self.reduceTied = reduceTied
        self.step = step
    }

    /// Equal stages, free communication.
    public static func uniform(
        stageCount: Int, forward: Double = 1, inputGradient: Double = 0.5, weightGradient: Double = 0.5
    ) -> CostModel {
        let stage = StageCost(forward: forward, inputGradient: inputGradient, weightGradient: weightGradient)
        return CostModel(stages: Array(repeating: stage, count: stageCount))
    }

    func seconds(_ action: Action) -> Double {
        switch action.kind {
        case .forward: stages[action.stage].forward
        case .inputGradient: stages[action.stage].inputGradient
        case .weightGradient: stages[action.stage].weightGradient
        case .backward: stages[action.stage].inputGradient + stages[action.stage].weightGradient
        case .recompute: stages[action.stage].recompute
        case .reduceTied: reduceTied
        case .step: step
        default: 0
        }
    }
}

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
/// lowered ones, where it also waits for its receive to be posted and `WAIT` holds the rank. One visit per action.
public enum Simulator {
    /// - Parameter keepsTimeline: whether to return when each action ran (40 bytes per action).
    /// - Throws: `ScheduleError.illegal` when the schedule is not legal.
    /// - Precondition: one cost per stage.
    public static func simulate(
        _ schedule: Schedule, _ costs: CostModel, keepsTimeline: Bool = false
    ) throws(ScheduleError) -> Simulation {
        try Verifier.verify(schedule)
        require(
            costs.stages.count == schedule.shape.stageCount,
            "Simulator: got costs of \(costs.stages.count) stages; expected \(schedule.shape.stageCount)")
        require(
            costs.skipBytes.map { $0.count == schedule.shape.skips.count } ?? true,
            "Simulator: got sizes of \(costs.skipBytes?.count ?? 0) skips; expected \(schedule.shape.skips.count)")
        let index = ScheduleIndex(schedule.shape)
        var clock = SimulatorClock(schedule, costs, index, keepsTimeline)
        var walk = ScheduleWalk(schedule, index)
        walk.run { rank, _, action, unit in clock.run(action, unit, rank) }
        return Simulation(
            makespan: clock.now.max() ?? 0, ranks: clock.usage, timeline: clock.timeline)
    }
}

/// Times of everything that has happened so far.
private struct SimulatorClock {
    let costs: CostModel
    let index: ScheduleIndex
    let placement: [Int]
    /// Seconds that a message on each edge takes: on the line by the stage before it, then per skip.
    let lineSeconds: [Double]
    let skipSeconds: [Double]
    let isLowered: Bool
    let isEvaluation: Bool
    let keepsTimeline: Bool
    /// Per rank.
    var now: [Double]
    var usage: [RankUsage]
    var liveUnits: [Int]
    var liveBytes: [Int]
    /// When the reductions over replicas started so far are done; one after the other, since they share the links.
    var reduced: [Double]
    var timeline: [[TimedAction]]
    /// Per message slot: when the message can start, as far as known (the later of sent and posted).
    var activationReady: [Double]
    var gradientReady: [Double]

    init(_ schedule: Schedule, _ costs: CostModel, _ index: ScheduleIndex, _ keepsTimeline: Bool) {
        self.costs = costs
        self.index = index
        self.keepsTimeline = keepsTimeline
        placement = schedule.placement.ranks
        func seconds(_ bytes: Int) -> Double { costs.latency + Double(bytes) / costs.bandwidth }
        lineSeconds = costs.stages.map { seconds($0.outputBytes) }
        skipSeconds = schedule.shape.skips.enumerated().map { number, skip in
            seconds(costs.skipBytes?[number] ?? costs.stages[skip.fromStage].outputBytes)
        }
        isLowered = schedule.isLowered
        isEvaluation = schedule.shape.purpose == .evaluation
        let count = schedule.ranks.count
        now = Array(repeating: 0, count: count)
        usage = Array(repeating: RankUsage(busy: 0, peakUnits: 0, peakBytes: 0), count: count)
        liveUnits = Array(repeating: 0, count: count)
        liveBytes = liveUnits
        reduced = now
        timeline = Array(repeating: [], count: count)
        activationReady = Array(repeating: 0, count: index.slotCount)
        gradientReady = activationReady
    }

    mutating func run(_ action: Action, _ unit: Int, _ rank: Int) {
        let start = max(now[rank], ready(action, unit, rank))
        let end = start + costs.seconds(action)
        if keepsTimeline { timeline[rank].append(TimedAction(action: action, start: start, end: end)) }
        now[rank] = end
        usage[rank].busy += end - start
        publish(action, unit, end, rank)
        account(action, rank)
    }

    /// When the messages that an action needs have arrived.
    private func ready(_ action: Action, _ unit: Int, _ rank: Int) -> Double {
        var time = 0.0
        switch action.kind {
        case .forward:
            for edge in index.edgesIn[action.stage] {
                let source = index.upstream(action, unit, edge: edge)
                guard source >= 0, placement[index.stage(source)] != rank else { continue }
                let sent = activationReady[index.slot(from: source, edge: edge)]
                time = max(time, sent + seconds(edge, from: index.stage(source)))
            }
        case .inputGradient, .backward:
            for edge in index.edgesOut[action.stage] {
                let source = index.downstream(action, unit, edge: edge)
                guard source >= 0, placement[index.stage(source)] != rank else { continue }
                // A gradient has the size of this stage's own output.
                let sent = gradientReady[index.slot(from: source, edge: edge)]
                time = max(time, sent + seconds(edge, from: action.stage))
            }
        case .waitActivation:
            time = activationReady[index.slot(of: action, unit)] + seconds(action.edge, from: action.stage)
        case .waitGradient:
            let stage = index.stage(index.upstream(action, unit, edge: action.edge))
            time = gradientReady[index.slot(of: action, unit)] + seconds(action.edge, from: stage)
        case .reduceTied: time = reduced[rank]
        default: break
        }
        return time
    }

    /// Time in transit on an edge, named by the stage whose output it carries.
    private func seconds(_ edge: Int, from stage: Int) -> Double {
        edge == 0 ? lineSeconds[stage] : skipSeconds[edge - 1]
    }

    private mutating func publish(_ action: Action, _ unit: Int, _ end: Double, _ rank: Int) {
        switch action.kind {
        case .forward where !isLowered:
            for edge in index.edgesOut[action.stage] { activationReady[index.slot(from: unit, edge: edge)] = end }
        case .inputGradient where !isLowered, .backward where !isLowered:
            for edge in index.edgesIn[action.stage] { gradientReady[index.slot(from: unit, edge: edge)] = end }
        case .sendActivation, .receiveActivation:
            let slot = index.slot(of: action, unit)
            activationReady[slot] = max(activationReady[slot], end)
        case .sendGradient, .receiveGradient:
            let slot = index.slot(of: action, unit)
            gradientReady[slot] = max(gradientReady[slot], end)
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
        case .forward where !isEvaluation: liveBytes[rank] += stage.inputBytes
        case .recompute:
            liveUnits[rank] += 1
            // What is recomputed includes the input, no longer kept apart.
            liveBytes[rank] += stage.activationBytes - stage.inputBytes
        case .weightGradient, .backward:
            liveUnits[rank] -= 1
            liveBytes[rank] -= stage.activationBytes
        default: break
        }
        usage[rank].peakUnits = max(usage[rank].peakUnits, liveUnits[rank])
        usage[rank].peakBytes = max(usage[rank].peakBytes, liveBytes[rank])
    }
}
