/// 1F1B with weight gradients put off until they fill what would be bubble, at the memory of 1F1B's first rank
/// (ZB-H1, arXiv 2401.10241); here over sequence chunks as well. For 3 stages, 5 micro-batches:
///
///     rank 0  F0 F1 F2 .  .  I0 W0 F3 I1 W1 F4 I2 W2 I3 W3 I4 W4
///     rank 1  .  F0 F1 .  I0 F2 I1 W0 F3 I2 W1 F4 I3 W2 I4 W3 W4
///     rank 2  .  .  F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 F4 I4 W2 W3 W4
///
/// Rank `s` runs as far ahead as in 1F1B and lets each weight gradient wait for `s` more input gradients, so that
/// every rank holds `min(p−1+k, mk)` units (rank 0, where nobody waits for a gradient, runs whole backwards).
/// Gradients therefore travel up the ranks at the pace of input gradients alone. Bubble `(p−1)·max(F, F+I−W)/k` for
/// `m ≥ p` (the paper's `F+I−W`; when `W > I`, the time until the last rank has work remains), with `F = I = W` a
/// third of 1F1B's and, for one stage per rank, the least possible.
enum ZeroBubbleH1: ScheduleGenerator {
    static let name = "zb_h1"
    static let placements = [PlacementKind.contiguous]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        (0..<placement.rankCount).map { rank in
            alternate(
                forward: shape.forwardUnits(stages: [rank], groups: shape.wholeBatch),
                backward: shape.backwardUnits(stages: [rank], groups: shape.wholeBatch),
                lead: placement.rankCount - 1 - rank + shape.chunkCount, weightLag: rank)
        }
    }
}

/// ZB-H1 with twice the forwards ahead and twice the memory, so that no rank waits between its first and its last
/// action (ZB-H2, arXiv 2401.10241). For 3 stages, 5 micro-batches:
///
///     rank 0  F0 F1 F2 F3 F4 I0 W0 I1 W1 I2 W2 I3 W3 I4 W4 .  .
///     rank 1  .  F0 F1 F2 I0 F3 I1 F4 I2 W0 I3 W1 I4 W2 W3 W4 .
///     rank 2  .  .  F0 I0 F1 I1 F2 I2 F3 I3 F4 I4 W0 W1 W2 W3 W4
///
/// Rank `s` runs `2(p−1−s)` forwards ahead and lets weight gradients wait for `2s` input gradients (fewer when the
/// step is so short that it would end late); each rank holds at most `min(2(p−1)+k, mk)` units. Between its first and
/// last action a rank idles `(p−1)·max(0, F+I−2W)/k` for `m ≥ 2p−1`; the paper's bubble is this figure. Ranks start one
/// after the other, though, and the optimiser step waits for all of them, so the step's bubble is
/// `(p−1)·max(F, F+I−2W)/k`: less than that of ZB-H1 only when `I > W`.
enum ZeroBubbleH2: ScheduleGenerator {
    static let name = "zb_h2"
    static let placements = [PlacementKind.contiguous]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        let last = placement.rankCount - 1
        let surplus = max(0, shape.unitsPerStage - shape.chunkCount - last)
        return (0..<placement.rankCount).map { rank in
            alternate(
                forward: shape.forwardUnits(stages: [rank], groups: shape.wholeBatch),
                backward: shape.backwardUnits(stages: [rank], groups: shape.wholeBatch),
                lead: 2 * (last - rank) + shape.chunkCount, weightLag: rank + min(rank, surplus))
        }
    }
}
