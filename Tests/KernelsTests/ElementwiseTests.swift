import Kernels
import Testing

@Suite struct ElementwiseTests {
    @Test(arguments: awkwardSizes + [40_000])
    func matchesPlainLoops(count: Int) {
        let a = randomFloats(count, seed: 1), b = randomFloats(count, seed: 2), start = randomFloats(count, seed: 3)
        for pool in [onePool, twoPool] {
            var y = zeros(count)
            Elementwise.add(a, b, into: &y, count: count, threads: pool)
            #expect(y == zip(a, b).map { $0 + $1 })
            Elementwise.subtract(a, b, into: &y, count: count, threads: pool)
            #expect(y == zip(a, b).map { $0 - $1 })
            Elementwise.multiply(a, b, into: &y, count: count, threads: pool)
            #expect(y == zip(a, b).map { $0 * $1 })
            Elementwise.scale(a, by: -3, into: &y, count: count, threads: pool)
            #expect(y == a.map { -3 * $0 })
            Elementwise.copy(b, into: &y, count: count, threads: pool)
            #expect(y == b)
            Elementwise.fill(&y, with: 2, count: count, threads: pool)
            #expect(y == [Float](repeating: 2, count: count))
            y = start
            Elementwise.add(a, to: &y, count: count, threads: pool)
            #expect(y == zip(start, a).map { $0 + $1 })
            y = start
            Elementwise.axpy(0.3, a, to: &y, count: count, threads: pool)
            #expect(relativeError(y, zip(start, a).map { Double($0) + 0.3 * Double($1) }) < 1e-7)
            y = start
            Elementwise.multiplyAdd(a, b, to: &y, count: count, threads: pool)
            #expect(relativeError(y, zip(start, zip(a, b)).map { Double($0) + Double($1.0) * Double($1.1) }) < 1e-7)
        }
    }

    @Test(arguments: [(1, 1), (7, 63), (100, 257)])
    func addsBiasToRows(rows: Int, columns: Int) {
        let x = randomFloats(rows * columns, seed: 1), bias = randomFloats(columns, seed: 2)
        var y = zeros(rows * columns)
        Elementwise.addBias(bias, to: x, into: &y, rows: rows, columns: columns, threads: twoPool)
        #expect(y == (0..<rows * columns).map { x[$0] + bias[$0 % columns] })
    }
}
