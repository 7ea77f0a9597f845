/// Fill-drain: all forwards, then all backwards (GPipe, arXiv 1811.06965); over sequence chunks it is TeraPipe's order
/// (arXiv 2102.07988). For 3 stages, 2 micro-batches:
///
///     rank 0  F0 F1 .  .  .  .  B0 B1
///     rank 1  .  F0 F1 .  .  B0 B1 .
///     rank 2  .  .  F0 F1 B0 B1 .  .
///
/// Backwards run in micro-batch order, not reversed as in the paper: the time is the same, and gradients are added
/// in the same order as under every other schedule. Bubble `(p−1)(F+B)/k`; every unit is alive at the turn.
enum GPipe: ScheduleGenerator {
    static let name = "gpipe"
    static let placements = [PlacementKind.contiguous]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        (0..<placement.rankCount).map { rank in
            alternate(
                forward: shape.forwardUnits(stages: [rank], groups: shape.wholeBatch),
                backward: shape.backwardUnits(stages: [rank], groups: shape.wholeBatch),
                lead: shape.unitsPerStage)
        }
    }
}
