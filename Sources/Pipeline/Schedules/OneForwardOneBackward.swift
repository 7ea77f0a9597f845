/// One forward, one backward in turn (PipeDream-Flush, arXiv 2006.09503); over sequence chunks it is Seq1F1B
/// (arXiv 2406.03488). For 3 stages, 4 micro-batches:
///
///     rank 0  F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3
///     rank 1  .  F0 F1 .  B0 F2 B1 F3 B2 .  B3 .
///     rank 2  .  .  F0 B0 F1 B1 F2 B2 F3 B3 .  .
///
/// Rank `s` runs `p−1−s` forwards ahead, so that the last stage's gradient meets it without waiting; `k−1` more with
/// `k` chunks, because a micro-batch's backward starts with its last chunk. Bubble `(p−1)(F+B)/k` as in fill-drain,
/// but only `min(p−1−s+k, mk)` units are alive.
enum OneForwardOneBackward: ScheduleGenerator {
    static let name = "1f1b"
    static let placements = [PlacementKind.contiguous]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        (0..<placement.rankCount).map { rank in
            alternate(
                forward: shape.forwardUnits(stages: [rank], groups: shape.wholeBatch),
                backward: shape.backwardUnits(stages: [rank], groups: shape.wholeBatch),
                lead: placement.rankCount - 1 - rank + shape.chunkCount)
        }
    }
}
