import Kernels

/// The ways to lay stages on ranks that have a name.
public enum PlacementKind: String, CaseIterable, Sendable {
    /// One stage per rank, in order.
    case contiguous
    /// `v` stages per rank, dealt out in turn.
    case interleaved
    /// Two stages per rank, down and back up.
    case vShape = "v_shape"
    /// Dealt out in turn too, to one or several rings of ranks, not everywhere the same number.
    case ring

    /// Stages per rank: `requested`, or what is usual when nil. Nil when this placement cannot have so many.
    public func virtualStages(_ requested: Int?) -> Int? {
        switch self {
        case .contiguous: requested ?? 1 == 1 ? 1 : nil
        case .interleaved, .ring: requested ?? 2 >= 1 ? requested ?? 2 : nil
        case .vShape: requested ?? 2 == 2 ? 2 : nil
        }
    }

    /// - Precondition: `virtualStages` is one that `virtualStages(_:)` allows.
    public func placement(rankCount: Int, virtualStages: Int) -> Placement {
        require(
            self.virtualStages(virtualStages) == virtualStages,
            "PlacementKind: got \(virtualStages) stages per rank; expected as many as \(rawValue) can have")
        return switch self {
        case .contiguous: .contiguous(stageCount: rankCount)
        case .interleaved: .interleaved(rankCount: rankCount, virtualStages: virtualStages)
        case .vShape: .vShape(rankCount: rankCount)
        case .ring: .ring(stageCount: rankCount * virtualStages, rankCount: rankCount)
        }
    }
}

/// Which rank runs which stage. A rank may hold several stages.
public struct Placement: Hashable, Sendable {
    /// `ranks[s]` is the rank of stage `s`.
    public let ranks: [Int]
    public let rankCount: Int

    /// - Precondition: ranks are `0..<rankCount`, each holding at least one stage.
    public init(ranks: [Int]) {
        require(Self.isComplete(ranks), "Placement: got \(ranks); expected every rank from 0 up to hold a stage")
        self.ranks = ranks
        rankCount = ranks.max()! + 1
    }

    /// Stage `s` on rank `s`.
    public static func contiguous(stageCount: Int) -> Placement { Placement(ranks: Array(0..<stageCount)) }

    /// Stage `s` on rank `s mod p`: the ranks are passed `virtualStages` times in the same direction.
    public static func interleaved(rankCount: Int, virtualStages: Int) -> Placement {
        Placement(ranks: (0..<rankCount * virtualStages).map { $0 % rankCount })
    }

    /// Stages `r` and `2p−1−r` on rank `r`: down the ranks and back up, so that input and loss share rank 0.
    public static func vShape(rankCount: Int) -> Placement {
        Placement(ranks: Array(0..<rankCount) + (0..<rankCount).reversed())
    }

    /// The placement of recursions through shared layers: with `n = p / ringCount` ranks per ring, `n` stages after
    /// each other make a lap, one recursion or an equal part of it, so that a slice of the shared layers comes back
    /// to the rank that has it. Laps are shared out evenly over the rings, consecutive ones to the same ring, the
    /// earlier rings taking one more; `ringCount` 1 keeps every parameter on one rank. Stages beyond the last whole lap
    /// go on around the last ring: one more lies on its first rank.
    ///
    /// - Precondition: `ringCount` divides `rankCount`; at least one stage per rank.
    public static func ring(stageCount: Int, rankCount: Int, ringCount: Int = 1) -> Placement {
        require(
            ringCount >= 1 && rankCount >= 1 && rankCount % ringCount == 0 && stageCount >= rankCount,
            "Placement: got \(stageCount) stages for \(ringCount) rings of \(rankCount) ranks in all; expected a stage "
                + "per rank, and equal rings")
        let ringSize = rankCount / ringCount
        let lapCount = stageCount / ringSize
        return Placement(
            ranks: (0..<stageCount).map { stage in
                let (lap, place) = stage.quotientAndRemainder(dividingBy: ringSize)
                return min(lap * ringCount / lapCount, ringCount - 1) * ringSize + place
            })
    }

    /// Whether a list is a placement: not empty, no rank skipped.
    static func isComplete(_ ranks: [Int]) -> Bool {
        guard let last = ranks.max(), ranks.min() == 0 else { return false }
        return Set(ranks).count == last + 1
    }

    public var stageCount: Int { ranks.count }

    /// Stages of one rank, ascending.
    public func stages(of rank: Int) -> [Int] { ranks.indices.filter { ranks[$0] == rank } }
}
