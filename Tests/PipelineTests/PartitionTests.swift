import Pipeline
import TestSupport
import Testing

@Suite struct PartitionTests {
    /// All lists of `p` counts ≥ 1 that add up to `n`, in lexicographic order.
    static func cuts(_ n: Int, _ p: Int) -> [[Int]] {
        if p == 1 { return [[n]] }
        return (1...(n - p + 1)).flatMap { first in cuts(n - first, p - 1).map { [first] + $0 } }
    }

    static func stages(_ layers: [LayerCost], _ counts: [Int]) -> [ArraySlice<LayerCost>] {
        var first = 0
        return counts.map { count in
            defer { first += count }
            return layers[first..<first + count]
        }
    }

    static func bytes(_ layers: ArraySlice<LayerCost>, _ units: Int) -> Int {
        layers.reduce(0) { $0 + $1.fixedBytes + $1.activationBytes * units }
    }

    @Test func agreesWithBruteForce() throws {
        var random = SplitMix(state: 7)
        for _ in 0..<400 {
            let n = 1 + random.below(9)
            let p = 1 + random.below(n)
            let layers = (0..<n).map { _ in
                LayerCost(
                    time: Double(random.below(5)), fixedBytes: random.below(10), activationBytes: random.below(4))
            }
            let units = (0..<p).map { p - $0 }
            let limit = random.below(3) == 0 ? nil : 10 + random.below(40)
            let needs = Self.cuts(n, p).map { cut in
                zip(Self.stages(layers, cut), units).map { Self.bytes($0, $1) }.max()!
            }
            let legal = zip(Self.cuts(n, p), needs).filter { limit == nil || $0.1 <= limit! }.map(\.0)
            let times = legal.map { Self.stages(layers, $0).map { $0.reduce(0) { $0 + $1.time } }.max()! }
            let result = Result { try Partition(layers: layers, stageCount: p, liveUnits: units, memoryLimit: limit) }
            if legal.isEmpty {
                let need = needs.min()!
                let cut = Self.cuts(n, p)[needs.firstIndex(of: need)!]
                #expect(throws: PartitionError.outOfMemory(limit: limit!, smallestNeed: need, cut: cut)) {
                    try result.get()
                }
            } else {
                let best = legal.indices.first { times[$0] == times.min()! }!
                #expect(try result.get().layerCounts == legal[best])
            }
        }
    }

    @Test func equalLayersTieTowardsShortFirstStages() throws {
        let layers = Array(repeating: LayerCost(time: 0.1), count: 8)
        #expect(try Partition(layers: layers, stageCount: 3).layerCounts == [2, 3, 3])
        #expect(try Partition(layers: layers, stageCount: 8).layerCounts == Array(repeating: 1, count: 8))
        #expect(try Partition(layers: layers, stageCount: 3).layers(of: 2) == 5..<8)
    }

    @Test func explicitListIsTaken() throws {
        #expect(try Partition(layerCounts: [3, 3, 2], layerCount: 8).layers(of: 1) == 3..<6)
    }

    @Test func errorsAdvise() {
        let layers = Array(repeating: LayerCost(time: 1, fixedBytes: 1 << 20, activationBytes: 1 << 19), count: 4)
        Self.expectError(
            "cannot cut 4 layers into 6 stages: every stage needs a layer; set parallel.stages to at most 4, "
                + "or run on fewer ranks"
        ) { try Partition(layers: layers, stageCount: 6) }
        Self.expectError("parallel.partition [3, 3, 2] adds up to 8 layers; the model has 9") {
            try Partition(layerCounts: [3, 3, 2], layerCount: 9)
        }
        Self.expectError("parallel.partition [4, 0] has a stage without layers; every entry must be at least 1") {
            try Partition(layerCounts: [4, 0], layerCount: 4)
        }
        Self.expectError(
            "no cut fits 3.0 MiB per rank: the smallest possible need is 4.0 MiB, with layers [2, 2]; use more "
                + "stages, more re-materialisation, or smaller micro-batches"
        ) { try Partition(layers: layers, stageCount: 2, liveUnits: [2, 1], memoryLimit: 3 << 20) }
    }

    static func expectError(_ expected: String, _ body: () throws -> Partition) {
        do {
            Issue.record("no error but \(try body())")
        } catch {
            #expect("\(error)" == expected)
        }
    }

    // MARK: Rings

    /// Two laps of four layers on two ranks: what stands before the block, and laps that take unlike times, move the cut.
    @Test(
        arguments: [
            ([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0], [4, 2, 2, 3]), ([0, 6, 1, 1, 1, 1, 1, 1, 1, 1, 0], [3, 3, 1, 4]),
            ([0, 0, 1, 1, 1, 1, 4, 0, 0, 0, 0], [3, 3, 1, 4]), ([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 6], [5, 1, 3, 2]),
        ] as [([Double], [Int])])
    func ringsWeighAllLaps(times: [Double], counts: [Int]) throws {
        let ring = try RingPartition(
            times: times, block: 2..<10, lapCount: 2, rankCount: 2, ringCount: 1, endsAtHome: false)
        #expect(ring.partition.layerCounts == counts)
        #expect(ring.placement.ranks == [0, 1, 0, 1])
    }
}
