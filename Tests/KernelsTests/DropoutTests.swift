import Kernels
import Testing

@Suite struct DropoutTests {
    private func mask(samples: Int, count: Int, firstSample: Int = 0, firstElement: Int = 0, pool: ThreadPool = onePool)
        -> [Float]
    {
        var y = [Float](repeating: 1, count: samples * count)
        let x = y
        Dropout.apply(
            x, into: &y, samples: samples, count: count, firstSample: firstSample, firstElement: firstElement,
            probability: 0.25, seed: 9, stream: 5, step: 7, threads: pool)
        return y
    }

    @Test func microBatchesChunksAndThreadsDoNotShow() {
        let samples = 4, count = 20_011
        let whole = mask(samples: samples, count: count)
        expectSameBits(whole, mask(samples: samples, count: count, pool: twoPool))
        for s in 0..<samples {
            expectSameBits(mask(samples: 1, count: count, firstSample: s), Array(whole[s * count..<(s + 1) * count]))
        }
        for (first, length) in [(1, 6), (63, 100), (10_000, 257)] {
            expectSameBits(
                mask(samples: 1, count: length, firstElement: first), Array(whole[first..<first + length]))
        }
    }

    @Test func keepsTheExpectedShareAndScales() {
        let y = mask(samples: 2, count: 50_000)
        #expect(y.allSatisfy { $0 == 0 || $0 == 4.0 / 3 })
        let kept = Double(y.count { $0 != 0 }) / Double(y.count)
        #expect(abs(kept - 0.75) < 0.006)  // four standard errors
        #expect(y[..<50_000] != y[50_000...])
    }

    @Test func zeroProbabilityIsTheIdentity() {
        let x = randomFloats(100, seed: 1)
        var y = zeros(100)
        Dropout.apply(
            x, into: &y, samples: 1, count: 100, firstSample: 0, firstElement: 0, probability: 0, seed: 1, stream: 0,
            step: 0, threads: onePool)
        #expect(y == x)
    }
}
