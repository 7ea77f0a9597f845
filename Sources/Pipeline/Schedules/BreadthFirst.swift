/// Fill-drain over `v` stages per rank: all micro-batches pass one stage before any enters the rank's next (looped
/// breadth-first, arXiv 2211.05953). For 2 ranks, 2 stages each, 2 micro-batches (written stage:micro-batch):
///
///     rank 0  F0:0 F0:1 F2:0 F2:1 .    .    B2:0 B2:1 B0:0 B0:1
///     rank 1  .    F1:0 F1:1 F3:0 F3:1 B3:0 B3:1 B1:0 B1:1 .
///
/// Bubble `(p−1)(F+B)/(kv)` for `mk ≥ p`; every unit is alive at the turn. In a ring whose later laps cost no more than
/// the first, it is that of the first lap alone: with `B_s`, `F_s` the times of stage `s`, `(p−1)(F_0+B_0)`. With
/// several rings, each waits for nearly all of the one before: `interleaved` does not.
enum BreadthFirst: ScheduleGenerator {
    static let name = "breadth_first"
    static let placements = [PlacementKind.interleaved, .ring]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        (0..<placement.rankCount).map { rank in
            let stages = placement.stages(of: rank)
            return alternate(
                forward: shape.forwardUnits(stages: stages, groups: shape.wholeBatch),
                backward: shape.backwardUnits(stages: stages, groups: shape.wholeBatch),
                lead: stages.count * shape.unitsPerStage)
        }
    }
}
