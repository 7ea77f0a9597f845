import Kernels

/// What one layer costs the stage that holds it.
public struct LayerCost: Hashable, Sendable {
    /// Forward and backward of one unit; seconds, or anything proportional.
    public var time: Double
    /// Parameters, gradients, optimiser state; bytes.
    public var fixedBytes: Int
    /// Kept for the backward of one unit; bytes.
    public var activationBytes: Int

    public init(time: Double, fixedBytes: Int = 0, activationBytes: Int = 0) {
        self.time = time
        self.fixedBytes = fixedBytes
        self.activationBytes = activationBytes
    }
}

/// Why layers cannot be cut as asked.
public enum PartitionError: Error, Equatable, CustomStringConvertible {
    case moreStagesThanLayers(stageCount: Int, layerCount: Int)
    /// An explicit list does not describe the model.
    case wrongList(layerCounts: [Int], layerCount: Int)
    /// `smallestNeed` is the least bytes the fullest rank needs under any cut; `cut` reaches it.
    case outOfMemory(limit: Int, smallestNeed: Int, cut: [Int])

    public var description: String {
        switch self {
        case .moreStagesThanLayers(let stages, let layers):
            "cannot cut \(layers) layers into \(stages) stages: every stage needs a layer; "
                + "set parallel.stages to at most \(layers), or run on fewer ranks"
        case .wrongList(let counts, let layers):
            counts.contains { $0 < 1 }
                ? "parallel.partition \(counts) has a stage without layers; every entry must be at least 1"
                : "parallel.partition \(counts) adds up to \(counts.reduce(0, +)) layers; the model has \(layers)"
        case .outOfMemory(let limit, let need, let cut):
            "no cut fits \(Self.size(limit)) per rank: the smallest possible need is \(Self.size(need)), with "
                + "layers \(cut); use more stages, more re-materialisation, or smaller micro-batches"
        }
    }

    private static func size(_ bytes: Int) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var value = Double(bytes)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return unit == 0 ? "\(bytes) B" : "\((value * 10).rounded() / 10) \(units[unit])"
    }
}

/// A cut of a list of layers into consecutive stages.
public struct Partition: Hashable, Sendable {
    /// Layers of each stage in turn, each at least 1.
    public let layerCounts: [Int]

    /// The layers of one stage.
    public func layers(of stage: Int) -> Range<Int> {
        let start = layerCounts[..<stage].reduce(0, +)
        return start..<start + layerCounts[stage]
    }

    /// An explicit cut.
    public init(layerCounts: [Int], layerCount: Int) throws(PartitionError) {
        guard layerCounts.allSatisfy({ $0 >= 1 }), layerCounts.reduce(0, +) == layerCount else {
            throw .wrongList(layerCounts: layerCounts, layerCount: layerCount)
        }
        self.layerCounts = layerCounts
    }

    /// The cut whose slowest stage is fastest, exactly, by dynamic programming. Among equals it is the one with
    /// the smallest list of layer counts, compared from the first stage on, so that every rank finds the same.
    /// - Parameters:
    ///   - liveUnits: per stage, units whose activations it holds at once (`Schedule.peakUnits`); nil counts none.
    ///   - memoryLimit: bytes per rank; nil is unlimited. A stage needs the fixed bytes of its layers plus their
    ///     activation bytes times its live units.
    /// - Complexity: O(stages · layers²) time, O(layers²) memory.
    public init(
        layers: [LayerCost], stageCount: Int, liveUnits: [Int]? = nil, memoryLimit: Int? = nil
    ) throws(PartitionError) {
        require(stageCount >= 1, "Partition: got \(stageCount) stages; expected at least 1")
        require(
            liveUnits == nil || liveUnits!.count == stageCount,
            "Partition: got live units of \(liveUnits?.count ?? 0) stages; expected \(stageCount)")
        guard stageCount <= layers.count else {
            throw .moreStagesThanLayers(stageCount: stageCount, layerCount: layers.count)
        }
        let units = liveUnits ?? Array(repeating: 0, count: stageCount)
        // Summed layer by layer, not as differences of running sums: stages of equal layers then tie exactly.
        let times = Self.rangeSums(layers.map(\.time))
        let isLimited = memoryLimit != nil
        let fixed = isLimited ? Self.rangeSums(layers.map { Double($0.fixedBytes) }) : []
        let activations = isLimited ? Self.rangeSums(layers.map { Double($0.activationBytes) }) : []
        func bytes(_ stage: Int, _ first: Int, _ count: Int) -> Double {
            fixed[first][count] + activations[first][count] * Double(units[stage])
        }
        let best = Self.smallestMaximum(layers.count, stageCount) { stage, first, count in
            if let memoryLimit, bytes(stage, first, count) > Double(memoryLimit) { return .infinity }
            return times[first][count]
        }
        guard let best else {
            let least = Self.smallestMaximum(layers.count, stageCount, cost: bytes)!
            throw .outOfMemory(limit: memoryLimit!, smallestNeed: Int(least.value), cut: least.counts)
        }
        layerCounts = best.counts
    }

    /// `sums[i][n]` is the sum of `n` values from `i`.
    private static func rangeSums(_ values: [Double]) -> [[Double]] {
        values.indices.map { first in
            var sums = [0.0]
            for value in values[first...] { sums.append(sums.last! + value) }
            return sums
        }
    }

    /// The smallest possible maximum of `cost(stage, first layer, layer count)` over all cuts and the first cut, in
    /// the order of the list of counts, that reaches it; nil when every cut contains an infinite cost.
    static func smallestMaximum(
        _ layerCount: Int, _ stageCount: Int, cost: (Int, Int, Int) -> Double
    ) -> (value: Double, counts: [Int])? {
        // rest[s][i]: best maximum for the layers from i on in the stages from s on.
        var rest = [[Double]](
            repeating: Array(repeating: .infinity, count: layerCount + 1), count: stageCount + 1)
        rest[stageCount][layerCount] = 0
        for stage in (0..<stageCount).reversed() {
            for first in stage...(layerCount - (stageCount - stage)) {
                var best = Double.infinity
                for count in 1...(layerCount - first - (stageCount - stage - 1)) {
                    best = min(best, max(cost(stage, first, count), rest[stage + 1][first + count]))
                }
                rest[stage][first] = best
            }
        }
        let value = rest[0][0]
        guard value < .infinity else { return nil }
        var counts: [Int] = []
        var first = 0
        for stage in 0..<stageCount {
            let count = (1...(layerCount - first)).first {
                max(cost(stage, first, $0), rest[stage + 1][first + $0]) <= value
            }!
            counts.append(count)
            first += count
        }
        return (value, counts)
    }
}
