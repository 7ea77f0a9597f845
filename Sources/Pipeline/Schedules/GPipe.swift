/// Fill-drain: all forwards, then all backwards (GPipe, arXiv 1811.06965). For 3 stages, 2 micro-batches:
///
///     rank 0  F0 F1 .  .  .  .  B0 B1
///     rank 1  .  F0 F1 .  .  B0 B1 .
///     rank 2  .  .  F0 F1 B0 B1 .  .
///
/// Backwards run in micro-batch order, not reversed as in the paper: the time is the same, and gradients are added
/// in the same order as under every other schedule. Bubble `(p−1)(F+B)/k`; every unit is alive at the turn.
enum GPipe: ScheduleGenerator {
    static let name = "gpipe"

    static func placement(_ request: ScheduleRequest) -> Placement { .contiguous(stageCount: request.stageCount) }

    static func actions(rank: Int, _ request: ScheduleRequest) -> [Action] {
        forwardUnits(stage: rank, request.shape).map { Action(.forward, $0) }
            + backwardUnits(stage: rank, request.shape).map { Action(.backward, $0) }
    }

    static func peakUnits(rank: Int, _ request: ScheduleRequest) -> Int { request.shape.unitsPerStage }
}
