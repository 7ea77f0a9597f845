/// Which forwards keep no intermediate results and are repeated just before their backward.
public enum Rematerialization: String, CaseIterable, Sendable {
    case never
    case always
    /// All but the last micro-batch, whose backward follows its forward soonest.
    case exceptLast = "except_last"

    /// Whether this micro-batch's forwards are recomputed.
    func recomputes(_ microBatch: Int, of microBatchCount: Int) -> Bool {
        switch self {
        case .never: false
        case .always: true
        case .exceptLast: microBatch < microBatchCount - 1
        }
    }
}

/// What a generator is asked for.
public struct ScheduleRequest: Hashable, Sendable {
    public var stageCount: Int
    public var microBatchCount: Int
    public var chunkCount: Int
    public var rematerialization: Rematerialization

    public init(
        stageCount: Int, microBatchCount: Int, chunkCount: Int = 1, rematerialization: Rematerialization = .never
    ) {
        self.stageCount = stageCount
        self.microBatchCount = microBatchCount
        self.chunkCount = chunkCount
        self.rematerialization = rematerialization
    }

    var shape: ScheduleShape {
        ScheduleShape(stageCount: stageCount, microBatchCount: microBatchCount, chunkCount: chunkCount)
    }
}

/// A rule that orders the compute actions of a training step. Adding one: a file in `Schedules/` and a line in
/// `ScheduleCatalog.generators`. Communication, re-materialisation, proof and timing come from elsewhere.
///
/// Every generator runs the weight gradients of a stage in micro-batch order, within a micro-batch in reverse chunk
/// order, because the order in which gradients are added is part of the result.
public protocol ScheduleGenerator: SendableMetatype {
    /// The value of `parallel.schedule`.
    static var name: String { get }
    static func placement(_ request: ScheduleRequest) -> Placement
    /// Compute actions of one rank, every forward recorded.
    static func actions(rank: Int, _ request: ScheduleRequest) -> [Action]
    /// Most units of work that the rank holds recorded at once.
    static func peakUnits(rank: Int, _ request: ScheduleRequest) -> Int
}

/// The schedules known by name.
public enum ScheduleCatalog {
    static let generators: [any ScheduleGenerator.Type] = [
        GPipe.self,
        OneForwardOneBackward.self,
    ]

    public static var names: [String] { generators.map { $0.name } }

    /// A training schedule: compute actions only, to be lowered next.
    public static func training(_ name: String, _ request: ScheduleRequest) throws(ScheduleError) -> Schedule {
        guard let generator = generators.first(where: { $0.name == name }) else {
            throw .unknownSchedule(name: name, known: names)
        }
        let placement = generator.placement(request)
        let ranks = 0..<placement.rankCount
        return Schedule(
            name: name, shape: request.shape, placement: placement,
            ranks: ranks.map { rematerialized(generator.actions(rank: $0, request), request) },
            peakUnits: ranks.map { peakUnits(generator, rank: $0, request) })
    }

    /// Forward only, micro-batch by micro-batch; nothing is recorded.
    public static func evaluation(stageCount: Int, microBatchCount: Int, chunkCount: Int = 1) -> Schedule {
        var shape = ScheduleShape(
            stageCount: stageCount, microBatchCount: microBatchCount, chunkCount: chunkCount)
        shape.purpose = .evaluation
        let ranks = (0..<stageCount).map { stage in
            forwardUnits(stage: stage, shape).map { Action(.forward, $0, recorded: false) }
        }
        return Schedule(
            name: "forward", shape: shape, placement: .contiguous(stageCount: stageCount), ranks: ranks,
            peakUnits: Array(repeating: 0, count: stageCount))
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

    /// The generator's bound, lowered by what re-materialisation saves: at most one recomputed unit is alive beside
    /// the recorded units of the last micro-batch.
    private static func peakUnits(
        _ generator: any ScheduleGenerator.Type, rank: Int, _ request: ScheduleRequest
    ) -> Int {
        let recorded = generator.peakUnits(rank: rank, request)
        return switch request.rematerialization {
        case .never: recorded
        case .always: min(recorded, 1)
        case .exceptLast: min(recorded, request.chunkCount + (request.microBatchCount > 1 ? 1 : 0))
        }
    }
}

/// Units of a stage in forward order: by micro-batch, then by chunk.
func forwardUnits(stage: Int, _ shape: ScheduleShape) -> [UnitOfWork] {
    (0..<shape.microBatchCount).flatMap { microBatch in
        (0..<shape.chunkCount).map { UnitOfWork(stage: stage, microBatch: microBatch, chunk: $0) }
    }
}

/// Units of a stage in backward order: by micro-batch, then by chunk from the last to the first.
func backwardUnits(stage: Int, _ shape: ScheduleShape) -> [UnitOfWork] {
    (0..<shape.microBatchCount).flatMap { microBatch in
        (0..<shape.chunkCount).reversed().map { UnitOfWork(stage: stage, microBatch: microBatch, chunk: $0) }
    }
}
