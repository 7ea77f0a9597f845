/// The schedules known by name.
public enum ScheduleCatalog {
    static let generators: [any ScheduleGenerator.Type] = [
        GPipe.self,
        OneForwardOneBackward.self,
        Interleaved.self,
        BreadthFirst.self,
        ZeroBubbleInterleaved.self,
        ZeroBubbleH1.self,
        ZeroBubbleH2.self,
        ZeroBubbleV.self,
        VHalf.self,
        VMin.self,
        DualPipeV.self,
    ]

    public static var names: [String] { generators.map { $0.name } }

    /// A training schedule: compute actions only, to be lowered next. It declares exactly the units it keeps alive.
    public static func training(_ name: String, _ request: ScheduleRequest) throws(ScheduleError) -> Schedule {
        let generator = try generator(name)
        let placement = try placement(name, request)
        var shape = ScheduleShape(
            stageCount: placement.stageCount, microBatchCount: request.microBatchCount, chunkCount: request.chunkCount)
        let whole = generator.actions(shape, placement)
        shape.forwardOnly = request.forwardOnly
        let ranks = whole.map { rematerialized(truncated($0, shape), request) }
        return Schedule(
            name: name, shape: shape, placement: placement, ranks: ranks, peakUnits: ranks.map(peakUnits))
    }

    /// The kinds of placement that a schedule can have, its own choice first; empty when there is no such schedule.
    public static func placementKinds(_ name: String) -> [PlacementKind] {
        generators.first { $0.name == name }?.placements ?? []
    }

    /// The kind of placement that a schedule has unless asked for another; nil when there is no such schedule.
    public static func placementKind(_ name: String) -> PlacementKind? { placementKinds(name).first }

    /// Where a schedule puts its stages, and so how many there are; the schedule itself is not made.
    /// - Throws: `ScheduleError.unknownSchedule`; `.unsupported` when the request's placement, number of stages or
    ///   number of rings is not one the schedule can have.
    public static func placement(_ name: String, _ request: ScheduleRequest) throws(ScheduleError) -> Placement {
        let kinds = try generator(name).placements
        let kind = request.placement ?? kinds[0]
        guard kinds.contains(kind) else {
            let others = generators.filter { $0.placements.contains(kind) }.map { $0.name }
            throw .unsupported(
                schedule: name,
                reason:
                    "needs placement \(kinds.map(\.rawValue).joined(separator: " or ")), got \(kind.rawValue); leave the placement out, "
                    + "or choose a schedule that has it: \(others.joined(separator: ", "))")
        }
        guard let virtualStages = kind.virtualStages(request.virtualStages) else {
            let expected =
                switch kind {
                case .contiguous: "1, as it has one stage per rank; interleaved and breadth_first take more"
                case .interleaved, .ring: "1 or more"
                case .vShape: "2, as each rank has two stages"
                }
            throw .unsupported(
                schedule: name, reason: "got virtual_stages \(request.virtualStages!); expected \(expected)")
        }
        guard kind == .ring else {
            guard request.stageCount == nil, request.ringCount == 1 else {
                throw .unsupported(
                    schedule: name,
                    reason:
                        "got a number of stages or rings, which placement \(kind.rawValue) fixes; only ring takes one")
            }
            return kind.placement(rankCount: request.rankCount, virtualStages: virtualStages)
        }
        let stageCount = request.stageCount ?? request.rankCount * virtualStages
        guard stageCount >= request.rankCount else {
            throw .unsupported(
                schedule: name, reason: "got \(stageCount) stages; expected one per rank at least, \(request.rankCount)"
            )
        }
        guard request.ringCount >= 1, request.rankCount % request.ringCount == 0 else {
            throw .unsupported(
                schedule: name,
                reason: "got \(request.ringCount) rings; expected a number that divides the \(request.rankCount) ranks")
        }
        return .ring(stageCount: stageCount, rankCount: request.rankCount, ringCount: request.ringCount)
    }

    /// Forward only; nothing is recorded. A unit that has come further goes first, so that results leave early.
    public static func evaluation(
        placement: Placement, microBatchCount: Int, chunkCount: Int = 1
    ) -> Schedule {
        let shape = ScheduleShape(
            stageCount: placement.stageCount, microBatchCount: microBatchCount, chunkCount: chunkCount,
            purpose: .evaluation)
        let stages = 0..<shape.stageCount
        let scheduler = ListScheduler(
            shape: shape, placement: placement, forwardDue: stages.map { -$0 }, inputGradientDue: stages.map { _ in 0 },
            period: 0, capacity: 0, promised: stages.map { _ in 0 })
        let ranks = scheduler.run().ranks
        return Schedule(
            name: "forward", shape: shape, placement: placement, ranks: ranks, peakUnits: ranks.map { _ in 0 })
    }

    private static func generator(_ name: String) throws(ScheduleError) -> any ScheduleGenerator.Type {
        guard let generator = generators.first(where: { $0.name == name }) else {
            throw .unknownSchedule(name: name, known: names)
        }
        return generator
    }

    /// Leaves out backwards that forward-only stages do not have. What an order without them is still meets every need.
    private static func truncated(_ actions: [Action], _ shape: ScheduleShape) -> [Action] {
        guard !shape.forwardOnly.isEmpty else { return actions }
        return actions.compactMap { action in
            guard shape.forwardOnly.contains(action.stage) else { return action }
            return action.kind == .forward ? Action(.forward, action.unit, recorded: false) : nil
        }
    }

    /// Marks forwards as unrecorded and puts `R` before the backward (or input gradient) that needs it.
    private static func rematerialized(_ actions: [Action], _ request: ScheduleRequest) -> [Action] {
        guard request.rematerialization != .never else { return actions }
        var result: [Action] = []
        result.reserveCapacity(actions.count + actions.count / 2)
        for action in actions {
            guard request.rematerialization.recomputes(action.microBatch, of: request.microBatchCount) else {
                result.append(action)
                continue
            }
            switch action.kind {
            case .forward: result.append(Action(.forward, action.unit, recorded: false))
            case .backward, .inputGradient: result += [Action(.recompute, action.unit), action]
            default: result.append(action)
            }
        }
        return result
    }

    /// Most units whose intermediate results a list keeps alive at once.
    private static func peakUnits(_ actions: [Action]) -> Int {
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
