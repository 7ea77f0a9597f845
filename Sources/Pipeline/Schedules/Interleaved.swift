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
///
/// On a ring where a last lap is not full, the order is that of a full lap with nothing in the missing places. Of several
/// rings, each of `n` ranks and `v` laps, each runs `2vg` units further ahead than the next (`g` then at least `n`): a
/// group's way through the next ring and back. The bubble becomes `((rings−1)vn + n−1)(F+B)/v` for `k = 1` and `n | m`.
enum Interleaved: ScheduleGenerator {
    static let name = "interleaved"
    static let placements = [PlacementKind.interleaved, .ring]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        RingLaps(shape, placement).lists {
            2 * $0
        } weightLag: { _ in
            0
        }
    }
}

/// Interleaved 1F1B with weight gradients put off until they fill what would be bubble: ZB-H1 (arXiv 2401.10241) over
/// several stages per rank. For 2 ranks, 2 stages each, 4 micro-batches (written stage:micro-batch):
///
///     rank 0  F0:0 F0:1 F2:0 F2:1 .    B2:0 -    F0:2 B2:1 -    F0:3 B0:0 -    F2:2 B0:1 -    F2:3 B2:2 -    …
///     rank 1  .    F1:0 F1:1 F3:0 I3:0 F3:1 I3:1 W3:0 F1:2 I1:0 W3:1 F1:3 I1:1 W1:0 F3:2 I3:2 W1:1 F3:3 I3:3 …
///
/// Groups are those of `Interleaved`. As gradients travel at the pace of input gradients alone, rank `r` runs only
/// `p−1−r` forwards further ahead than the last, half as many, and lets each weight gradient wait for `r` more input
/// gradients. Every rank holds `min(p−1 + (v−1)g + k, mkv)` units, `p−1` less than rank 0 of `Interleaved`. Bubble
/// `(p−1)·max(F, F+I−W)/(kv)` for `m ≥ p`, with `F = I = W` a third of it.
enum ZeroBubbleInterleaved: ScheduleGenerator {
    static let name = "zb_interleaved"
    static let placements = [PlacementKind.interleaved, .ring]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        RingLaps(shape, placement).lists {
            $0
        } weightLag: {
            $0
        }
    }
}

/// A placement seen as laps around rings: blocks of equally many ranks that the stages pass one after the other, each lap
/// a stage or nothing on every rank of its ring, in the order of the ranks.
///
/// Any placement can be seen so. Orders by group are legal on full laps; they remain so when places are left empty,
/// since what depends on a stage through one that is not there depends on it still.
private struct RingLaps {
    private let shape: ScheduleShape
    private let ringSize: Int
    private let ringCount: Int
    /// Per rank, its stage in each lap of its ring; as many laps for all.
    private let stages: [[Int?]]

    init(_ shape: ScheduleShape, _ placement: Placement) {
        self.shape = shape
        let ranks = placement.ranks
        /// Per stage, the lap around its ring, counted from the first.
        func laps(_ ringSize: Int) -> [Int] {
            var lap = 0
            return ranks.indices.map { stage in
                if stage > 0 {
                    let isSameRing = ranks[stage] / ringSize == ranks[stage - 1] / ringSize
                    if !isSameRing { lap = 0 } else if ranks[stage] <= ranks[stage - 1] { lap += 1 }
                }
                return lap
            }
        }
        func passesRingsInOrder(_ ringSize: Int) -> Bool {
            placement.rankCount % ringSize == 0
                && zip(ranks, ranks.dropFirst()).allSatisfy { $0 / ringSize <= $1 / ringSize }
        }
        let smallest = (1...placement.rankCount).first(where: passesRingsInOrder)!
        // Ranks passed only once are one ring.
        let lapCount = laps(smallest).max()! + 1
        ringSize = lapCount == 1 ? placement.rankCount : smallest
        ringCount = placement.rankCount / ringSize
        var stages = [[Int?]](repeating: Array(repeating: nil, count: lapCount), count: placement.rankCount)
        for (stage, lap) in laps(ringSize).enumerated() { stages[ranks[stage]][lap] = stage }
        self.stages = stages
    }

    /// All ranks' lists.
    /// - Parameters:
    ///   - lead: forwards that a rank runs further ahead than the last of its ring, by the number of ranks between.
    ///   - weightLag: as in `alternate`, by the place in the ring.
    func lists(lead: (Int) -> Int, weightLag: (Int) -> Int) -> [[Action]] {
        let groups = groups()
        let groupUnits = groups[0].count * shape.chunkCount
        // Empty places are held by a stage that does not exist.
        let nothing = shape.stageCount
        return stages.indices.map { rank in
            let (ring, place) = rank.quotientAndRemainder(dividingBy: ringSize)
            let lapCount = stages[rank].count
            let all = stages[rank].map { $0 ?? nothing }
            let actions = alternate(
                forward: shape.forwardUnits(stages: all, groups: groups),
                backward: shape.backwardUnits(stages: all, groups: groups),
                lead: lead(ringSize - 1 - place) + (lapCount - 1 + 2 * (ringCount - 1 - ring) * lapCount) * groupUnits
                    + shape.chunkCount,
                weightLag: weightLag(place))
            return all.contains(nothing) ? actions.filter { $0.stage < nothing } : actions
        }
    }

    /// Micro-batches in as many groups of at least `ringSize` units as there are; the larger groups come first.
    private func groups() -> [Range<Int>] {
        let smallest = (ringSize + shape.chunkCount - 1) / shape.chunkCount
        let count = max(1, shape.microBatchCount / smallest)
        let (size, extra) = shape.microBatchCount.quotientAndRemainder(dividingBy: count)
        return (0..<count).map { group in
            let start = group * size + min(group, extra)
            return start..<start + size + (group < extra ? 1 : 0)
        }
    }
}
