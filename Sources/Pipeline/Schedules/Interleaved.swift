/// One forward, one backward in turn, over `v` stages per rank (interleaved 1F1B, arXiv 2104.04473). For 2 ranks, 2
/// stages each, 4 micro-batches (written stage:micro-batch):
///
///     rank 0  F0:0 F0:1 F2:0 F2:1 F0:2 B2:0 F0:3 B2:1 F2:2 B0:0 F2:3 B0:1 .    B2:2 .    B2:3 B0:2 B0:3
///     rank 1  .    F1:0 F1:1 F3:0 B3:0 F3:1 B3:1 F1:2 B1:0 F1:3 B1:1 F3:2 B3:2 F3:3 B3:3 B1:2 B1:3 .
///
/// Micro-batches go through the stages of a rank in groups, large enough (`g` units, at least `p`) that the first unit
/// is back on rank 0 when the group has left it. The published order wants `p` micro-batches per group and `m`
/// divisible by `p`; here any `m` is cut into equal groups (one micro-batch more or less), so that the bubble
/// `(p−1)(F+B)/(kv)` holds for every `mk ≥ p`, and chunks count as units, so that `k` chunks need groups of only `p/k`
/// micro-batches.
///
/// Rank `r` keeps `min(2(p−1−r) + (v−1)g + k, mkv)` units alive, for `k = 1` and `p | m` on rank 0 `vp + p − 1`.
enum Interleaved: ScheduleGenerator {
    static let name = "interleaved"
    static let placement = PlacementKind.interleaved

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        let groups = groups(shape, rankCount: placement.rankCount)
        let groupUnits = groups[0].count * shape.chunkCount
        return (0..<placement.rankCount).map { rank in
            let stages = placement.stages(of: rank)
            return alternate(
                forward: shape.forwardUnits(stages: stages, groups: groups),
                backward: shape.backwardUnits(stages: stages, groups: groups),
                lead: 2 * (placement.rankCount - 1 - rank) + (stages.count - 1) * groupUnits + shape.chunkCount)
        }
    }

    /// Micro-batches in as many groups of at least `rankCount` units as there are; the larger groups come first.
    private static func groups(_ shape: ScheduleShape, rankCount: Int) -> [Range<Int>] {
        let smallest = (rankCount + shape.chunkCount - 1) / shape.chunkCount
        let count = max(1, shape.microBatchCount / smallest)
        let (size, extra) = shape.microBatchCount.quotientAndRemainder(dividingBy: count)
        return (0..<count).map { group in
            let start = group * size + min(group, extra)
            return start..<start + size + (group < extra ? 1 : 0)
        }
    }
}
