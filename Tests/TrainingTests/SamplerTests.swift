import Foundation
import Testing
import Training

@Suite struct SamplerTests {
    private func next(_ logits: [Float], _ options: SamplingOptions, position: Int = 0) -> Int {
        logits.withUnsafeBufferPointer { Sampler(options).next($0, position: position) }
    }

    @Test func greedyTakesTheLowestIDAmongEquals() {
        #expect(next([0, 3, 1, 3, 3], SamplingOptions(temperature: 0)) == 1)
        #expect(next([-.infinity, -5], SamplingOptions(temperature: 0)) == 1)
        #expect(next([7], SamplingOptions(temperature: 0)) == 0)
    }

    private func drawn(_ logits: [Float], _ options: SamplingOptions, count: Int = 3000) -> Set<Int> {
        Set((0..<count).map { next(logits, options, position: $0) })
    }

    @Test func topKKeepsTheMostLikelyAndTheLowestIDsOfATie() {
        #expect(drawn([1, 2, 0, 2, 2], SamplingOptions(topK: 2)) == [1, 3])
        #expect(drawn([1, 2, 0, 2, 2], SamplingOptions(topK: 1)) == [1])
        #expect(drawn([1, 2, 0, 2, 2], SamplingOptions(topK: 99)) == [0, 1, 2, 3, 4])
    }

    /// Probabilities 0.5, 0.3, 0.15, 0.05: the token that crosses `p` stays.
    @Test(arguments: [(0.0, 1), (0.45, 1), (0.55, 2), (0.79, 2), (0.81, 3), (0.99, 4), (1.0, 4)])
    func topPKeepsTheCrossingToken(p: Double, kept: Int) {
        let ids = [2, 0, 3, 1]
        var logits = [Float](repeating: 0, count: 4)
        for (id, probability) in zip(ids, [0.5, 0.3, 0.15, 0.05]) { logits[id] = Float(log(probability)) }
        #expect(drawn(logits, SamplingOptions(topP: p)) == Set(ids.prefix(kept)))
    }

    @Test func topPCountsWithinTopK() {
        let logits = [0.4, 0.3, 0.2, 0.1].map { Float(log($0)) }
        // Among the two that top-k leaves, the first alone has 4/7.
        #expect(drawn(logits, SamplingOptions(topK: 2, topP: 0.55)) == [0])
        #expect(drawn(logits, SamplingOptions(topK: 2, topP: 0.6)) == [0, 1])
    }

    /// 1e5 draws over nine tokens: chi-square with eight degrees of freedom exceeds 26.1 once in a
    /// thousand; the draws are fixed by the seed.
    @Test(arguments: [1.0, 0.5, 2.0]) func frequenciesAreTheSoftmax(temperature: Double) {
        let logits: [Float] = [0, 1, -1, 0.5, 2, -0.5, 1.5, 0.25, -0.75]
        let weights = logits.map { exp(Double($0) / temperature) }
        let total = weights.reduce(0, +)
        var counts = [Double](repeating: 0, count: logits.count)
        let options = SamplingOptions(temperature: temperature, seed: 3)
        for position in 0..<100_000 { counts[next(logits, options, position: position)] += 1 }
        let square = zip(counts, weights).reduce(0) {
            let expected = 1e5 * $1.1 / total
            return $0 + ($1.0 - expected) * ($1.0 - expected) / expected
        }
        #expect(square < 26.1)
        #expect(square > 0.5, "draws that are not random at all")
    }

    @Test func drawsBelongToSeedAndPosition() {
        let logits = [Float](repeating: 0, count: 1000)
        func sequence(seed: UInt64) -> [Int] {
            (0..<50).map { next(logits, SamplingOptions(seed: seed), position: $0) }
        }
        #expect(sequence(seed: 1) == sequence(seed: 1))
        #expect(sequence(seed: 1) != sequence(seed: 2))
        #expect(Set(sequence(seed: 1)).count > 40)
        #expect(next(logits, SamplingOptions(seed: 1), position: 7) == sequence(seed: 1)[7])
    }

    @Test func impossibleTokensAreNeverDrawn() {
        #expect(drawn([-.infinity, 0, -.infinity, 0], SamplingOptions()) == [1, 3])
    }
}
