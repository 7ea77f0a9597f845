import Kernels

/// The cut of a list of layers with a shared block in it for rings of ranks (`Placement.ring`): every rank holds the same
/// slice of the block in all laps of its ring, so that each parameter of the block lies where it is used.
///
/// What stands before the block belongs to the first stage. What stands behind it belongs to the last stage of the last
/// lap, or comes back to the first rank of the last ring as a stage of its own, whichever leaves the fullest rank less to
/// do; tokens that stayed behind while others took another recursion are there already.
public struct RingPartition: Hashable, Sendable {
    /// Layers of each stage in turn.
    public let partition: Partition
    public let placement: Placement
    public let ringCount: Int

    /// - Parameters:
    ///   - times: of one unit in each layer, anything proportional to seconds.
    ///   - block: the layers of the shared block, all laps.
    ///   - lapCount: applications of the block; divides its layers.
    ///   - ringCount: divides `rankCount`.
    ///   - endsAtHome: whether what follows the block lies on the first rank of the last ring; nil chooses.
    /// - Throws: `PartitionError.moreStagesThanLayers` when a ring has more ranks than the block has layers.
    public init(
        times: [Double], block: Range<Int>, lapCount: Int, rankCount: Int, ringCount: Int, endsAtHome: Bool? = nil
    ) throws(PartitionError) {
        require(
            block.count % lapCount == 0 && rankCount % ringCount == 0 && block.upperBound <= times.count,
            "RingPartition: got \(block.count) layers in \(lapCount) laps, \(rankCount) ranks in \(ringCount) rings; "
                + "expected equal laps and rings")
        let ringSize = rankCount / ringCount
        let length = block.count / lapCount
        guard ringSize <= length else { throw .moreStagesThanLayers(stageCount: ringSize, layerCount: length) }
        let before = times[..<block.lowerBound].reduce(0, +)
        let behind = times[block.upperBound...].reduce(0, +)
        // With one rank in a ring, all of a lap is at home.
        let choices = ringSize == 1 ? [false] : endsAtHome.map { [$0] } ?? [false, true]
        let cuts = choices.map { home in
            let placement = Placement.ring(
                stageCount: lapCount * ringSize + (home ? 1 : 0), rankCount: rankCount, ringCount: ringCount)
            let lastRing = placement.ranks[lapCount * ringSize - 1] / ringSize
            func load(_ place: Int, _ first: Int, _ count: Int) -> Double {
                var loads = [Double](repeating: 0, count: ringCount)
                for lap in 0..<lapCount {
                    let start = block.lowerBound + lap * length + first
                    loads[placement.ranks[lap * ringSize] / ringSize] += times[start..<start + count].reduce(0, +)
                }
                if place == 0 { loads[0] += before }
                if place == (home ? 0 : ringSize - 1) { loads[lastRing] += behind }
                return loads.max()!
            }
            let cut = Partition.smallestMaximum(length, ringSize, cost: load)!
            return (placement: placement, home: home, cut: cut)
        }
        // The first of equals: one message less.
        let best = cuts.min { $0.cut.value < $1.cut.value }!
        var counts = (0..<lapCount).flatMap { _ in best.cut.counts }
        counts[0] += block.lowerBound
        let rest = times.count - block.upperBound
        if best.home { counts.append(rest) } else { counts[counts.count - 1] += rest }
        partition = try Partition(layerCounts: counts, layerCount: times.count)
        placement = best.placement
        self.ringCount = ringCount
    }
}
