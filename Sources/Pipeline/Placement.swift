import Kernels

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

    /// Whether a list is a placement: not empty, no rank skipped.
    static func isComplete(_ ranks: [Int]) -> Bool {
        guard let last = ranks.max(), ranks.min() == 0 else { return false }
        return Set(ranks).count == last + 1
    }

    public var stageCount: Int { ranks.count }

    /// Stages of one rank, ascending.
    public func stages(of rank: Int) -> [Int] { ranks.indices.filter { ranks[$0] == rank } }
}
