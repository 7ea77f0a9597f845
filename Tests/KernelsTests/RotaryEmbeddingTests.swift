import Glibc
import Kernels
import Testing

@Suite struct RotaryEmbeddingTests {
    @Test(arguments: [2, 6, 32, 64, 100], RotaryPairs.allCases)
    func rotatesPairsAndBack(width: Int, pairs: RotaryPairs) {
        let batch = 2, tokens = 5, heads = 3, start = 1000, count = batch * tokens * heads * width
        let table = RotaryTable(headWidth: width, theta: 10_000, pairs: pairs)
        let x = randomFloats(count, seed: 1)
        var y = zeros(count), back = zeros(count)
        RotaryEmbedding.apply(
            x, into: &y, batch: batch, tokens: tokens, heads: heads, start: start, table: table, threads: twoPool)
        var expected = [Double](repeating: 0, count: count)
        for row in 0..<batch * tokens * heads {
            let position = Double(start + row / heads % tokens)
            for i in 0..<width / 2 {
                let angle = position * pow(10_000, -2 * Double(i) / Double(width))
                let first = row * width + (pairs == .half ? i : 2 * i)
                let second = pairs == .half ? first + width / 2 : first + 1
                let u = Double(x[first]), w = Double(x[second])
                expected[first] = u * cos(angle) - w * sin(angle)
                expected[second] = w * cos(angle) + u * sin(angle)
            }
        }
        #expect(relativeError(y, expected) < 1e-7)
        RotaryEmbedding.apply(
            y, into: &back, batch: batch, tokens: tokens, heads: heads, start: start, table: table, inverse: true,
            threads: twoPool)
        #expect(relativeError(back, x.map(Double.init)) < 3e-7)
    }

    /// Growing the table must not change what was there: generation reads it position by position.
    @Test func chunksInPlaceEqualTheWhole() {
        let tokens = 9, heads = 2, width = 8, row = heads * width
        let x = randomFloats(tokens * row, seed: 2)
        var whole = zeros(tokens * row), chunked = x
        RotaryEmbedding.apply(
            x, into: &whole, batch: 1, tokens: tokens, heads: heads, start: 0,
            table: RotaryTable(headWidth: width, theta: 500), threads: onePool)
        let table = RotaryTable(headWidth: width, theta: 500)
        for t in 0..<tokens {
            chunked.withUnsafeMutableBufferPointer {
                let p = $0.baseAddress! + t * row
                RotaryEmbedding.apply(
                    p, into: p, batch: 1, tokens: 1, heads: heads, start: t, table: table, threads: onePool)
            }
        }
        expectSameBits(whole, chunked)
    }

    /// A row is rotated by its position alone, whichever rows stand beside it.
    @Test(arguments: RotaryPairs.allCases) func rowsAtGivenPositions(pairs: RotaryPairs) {
        let tokens = 9, heads = 2, width = 40, row = heads * width, positions: [Int32] = [0, 3, 4, 8, 8]
        let x = randomFloats(tokens * row, seed: 3)
        let table = RotaryTable(headWidth: width, theta: 500, pairs: pairs)
        var whole = zeros(tokens * row), some = zeros(positions.count * row)
        RotaryEmbedding.apply(
            x, into: &whole, batch: 1, tokens: tokens, heads: heads, start: 0, table: table, threads: onePool)
        func rows(_ x: [Float]) -> [Float] { positions.flatMap { x[Int($0) * row..<(Int($0) + 1) * row] } }
        RotaryEmbedding.apply(
            rows(x), into: &some, batch: 1, tokens: positions.count, heads: heads, start: 0, positions: positions,
            table: RotaryTable(headWidth: width, theta: 500, pairs: pairs), threads: twoPool)
        expectSameBits(rows(whole), some)
    }
}
