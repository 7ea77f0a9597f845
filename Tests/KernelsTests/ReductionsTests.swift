import Kernels
import Testing

@Suite struct ReductionsTests {
    @Test(arguments: [(1, 1), (7, 63), (100, 257), (257, 100), (63, 1000)])
    func columnSums(rows: Int, columns: Int) {
        let x = randomFloats(rows * columns, seed: 1), start = randomFloats(columns, seed: 2)
        var reference = start.map(Double.init)
        for i in 0..<rows * columns { reference[i % columns] += Double(x[i]) }
        var one = start, two = start
        Reductions.columnSums(x, rows: rows, columns: columns, accumulate: true, into: &one, threads: onePool)
        Reductions.columnSums(x, rows: rows, columns: columns, accumulate: true, into: &two, threads: twoPool)
        #expect(relativeError(one, reference) < 1e-6)
        expectSameBits(one, two)
        Reductions.columnSums(x, rows: rows, columns: columns, accumulate: false, into: &two, threads: twoPool)
        for c in 0..<columns { reference[c] -= Double(start[c]) }
        #expect(relativeError(two, reference) < 1e-6)
    }

    @Test(arguments: awkwardSizes + [300_001])
    func sumOfSquaresIsADoubleSumInFixedOrder(count: Int) {
        let x = randomFloats(count, seed: 4)
        let reference = x.reduce(0.0) { $0 + Double($1) * Double($1) }
        let one = Reductions.sumOfSquares(x, count: count, threads: onePool)
        #expect(abs(one / reference - 1) < 1e-12)  // the plain sum of the reference rounds too
        #expect(one == Reductions.sumOfSquares(x, count: count, threads: twoPool))
    }

    @Test(arguments: awkwardSizes + [50_000])
    func allFiniteSeesEveryPosition(count: Int) {
        var x = randomFloats(count, seed: 5)
        #expect(Reductions.allFinite(x, count: count, threads: twoPool))
        for position in Set([0, count / 2, count - 1]) {
            for bad in [Float.nan, .infinity, -.infinity] {
                let kept = x[position]
                x[position] = bad
                #expect(!Reductions.allFinite(x, count: count, threads: twoPool))
                x[position] = kept
            }
        }
        x[count - 1] = .greatestFiniteMagnitude
        #expect(Reductions.allFinite(x, count: count, threads: twoPool))
    }

    @Test func argmaxTakesTheFirstOfEqualsAndNaNAboveAll() {
        let x: [Float] = [1, 3, 3, 2, -.infinity, -.infinity, -.infinity, -.infinity, 5, .nan, 7, .nan]
        var indices = [Int32](repeating: -1, count: 3)
        Reductions.argmax(x, rows: 3, columns: 4, into: &indices, threads: onePool)
        #expect(indices == [1, 0, 1])
    }
}
