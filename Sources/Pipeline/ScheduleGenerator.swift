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
    /// `p` in the formulas.
    public var rankCount: Int
    /// Stages per rank, `v` in the formulas; nil leaves it to the schedule (1; 2 where a rank has several).
    public var virtualStages: Int?
    /// Nil leaves it to the schedule; otherwise it must be one the schedule can have.
    public var placement: PlacementKind?
    /// Of a ring, whose ranks need not have equally many: instead of `virtualStages`.
    public var stageCount: Int?
    /// Rings that the ranks of placement `ring` form.
    public var ringCount: Int
    /// `m` in the formulas.
    public var microBatchCount: Int
    /// Slices of the sequence axis per micro-batch, `k` in the formulas.
    public var chunkCount: Int
    public var rematerialization: Rematerialization
    /// Stages without backward; see `ScheduleShape.forwardOnly`.
    public var forwardOnly: Set<Int>

    public init(
        rankCount: Int, virtualStages: Int? = nil, placement: PlacementKind? = nil, stageCount: Int? = nil,
        ringCount: Int = 1, microBatchCount: Int, chunkCount: Int = 1,
        rematerialization: Rematerialization = .never, forwardOnly: Set<Int> = []
    ) {
        self.rankCount = rankCount
        self.virtualStages = virtualStages
        self.placement = placement
        self.stageCount = stageCount
        self.ringCount = ringCount
        self.microBatchCount = microBatchCount
        self.chunkCount = chunkCount
        self.rematerialization = rematerialization
        self.forwardOnly = forwardOnly
    }
}

/// A rule that orders the compute actions of a training step. Adding one: a file in `Schedules/` and a line in
/// `ScheduleCatalog.generators`. Communication, re-materialisation, proof and timing come from elsewhere.
///
/// Every generator takes any number of ranks, micro-batches and chunks, divisible by each other or not, and runs the
/// weight gradients of a stage in micro-batch order, within a micro-batch in reverse chunk order, because the order in
/// which gradients are added is part of the result.
///
/// Formulas in the doc comments: `p` ranks, `v` stages per rank, `m` micro-batches, `k` chunks; `F`, `I`, `W` and
/// `B = I + W` are durations of one micro-batch on one rank (all its stages and chunks); the bubble is the step's time
/// beyond `m(F+B)`; memory counts units of work, `1/(kv)` of what a micro-batch needs on a rank.
public protocol ScheduleGenerator: SendableMetatype {
    /// The value of `parallel.schedule`.
    static var name: String { get }
    /// Those it can have; the first is its own choice.
    static var placements: [PlacementKind] { get }
    /// Compute actions of each rank, every forward recorded.
    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]]
}

/// Forwards and backwards in turn, the frame of every schedule whose lists can be written down at once: `lead` forwards
/// come first, then one backward and one forward alternate until either runs out.
///
/// - Parameters:
///   - lead: forwards ahead of the backward with the same place in its list, that backward's own included.
///   - weightLag: 0 runs whole backwards; otherwise input gradients stand alone, and each weight gradient follows the
///     input gradient that comes this many places later. At most `lead + weightLag` units are alive.
func alternate(
    forward: [UnitOfWork], backward: [UnitOfWork], lead: Int, weightLag: Int = 0
) -> [Action] {
    let count = forward.count
    var actions: [Action] = []
    actions.reserveCapacity((weightLag == 0 ? 2 : 3) * count)
    for unit in forward.prefix(lead) { actions.append(Action(.forward, unit)) }
    for index in 0..<count {
        if weightLag == 0 {
            actions.append(Action(.backward, backward[index]))
        } else {
            actions.append(Action(.inputGradient, backward[index]))
            if index >= weightLag { actions.append(Action(.weightGradient, backward[index - weightLag])) }
        }
        if index + lead < count { actions.append(Action(.forward, forward[index + lead])) }
    }
    if weightLag > 0 { for unit in backward.suffix(weightLag) { actions.append(Action(.weightGradient, unit)) } }
    return actions
}

extension ScheduleShape {
    /// Units of some stages in forward order: all micro-batches of a group pass the first stage, then the next; by
    /// micro-batch, then by chunk.
    func forwardUnits(stages: [Int], groups: [Range<Int>]) -> [UnitOfWork] {
        var units: [UnitOfWork] = []
        units.reserveCapacity(stages.count * unitsPerStage)
        for group in groups {
            for stage in stages {
                for microBatch in group {
                    for chunk in 0..<chunkCount {
                        units.append(UnitOfWork(stage: stage, microBatch: microBatch, chunk: chunk))
                    }
                }
            }
        }
        return units
    }

    /// The same units in backward order: stages and chunks reversed, micro-batches not.
    func backwardUnits(stages: [Int], groups: [Range<Int>]) -> [UnitOfWork] {
        var units: [UnitOfWork] = []
        units.reserveCapacity(stages.count * unitsPerStage)
        for group in groups {
            for stage in stages.reversed() {
                for microBatch in group {
                    for chunk in (0..<chunkCount).reversed() {
                        units.append(UnitOfWork(stage: stage, microBatch: microBatch, chunk: chunk))
                    }
                }
            }
        }
        return units
    }

    /// The unit with a place in a stage's forward order: by micro-batch, then by chunk.
    func forwardUnit(stage: Int, _ index: Int) -> UnitOfWork {
        UnitOfWork(stage: stage, microBatch: index / chunkCount, chunk: index % chunkCount)
    }

    /// The unit with a place in a stage's backward order: by micro-batch, then by chunk from the last to the first.
    func backwardUnit(stage: Int, _ index: Int) -> UnitOfWork {
        UnitOfWork(stage: stage, microBatch: index / chunkCount, chunk: chunkCount - 1 - index % chunkCount)
    }

    /// All micro-batches together.
    var wholeBatch: [Range<Int>] { [0..<microBatchCount] }
}
