import Kernels
import Testing

@Suite struct EmbeddingTests {
    @Test(arguments: [(1, 1), (7, 63), (100, 257), (257, 100)])
    func gatherAndScatter(rows: Int, width: Int) {
        let vocabulary = 11
        let table = randomFloats(vocabulary * width, seed: 1), dy = randomFloats(rows * width, seed: 2)
        let indices = (0..<rows).map { Int32($0 * 7 % vocabulary) }
        var y = zeros(rows * width)
        Embedding.gather(
            table, vocabulary: vocabulary, indices: indices, into: &y, rows: rows, width: width, threads: twoPool)
        #expect(y == (0..<rows * width).map { table[Int(indices[$0 / width]) * width + $0 % width] })
        // Repeated indices add up in row order: exactly this loop.
        var expected = table, one = table, two = table
        for i in 0..<rows * width { expected[Int(indices[i / width]) * width + i % width] += dy[i] }
        Embedding.scatterAdd(
            dy, indices: indices, to: &one, vocabulary: vocabulary, rows: rows, width: width, threads: onePool)
        Embedding.scatterAdd(
            dy, indices: indices, to: &two, vocabulary: vocabulary, rows: rows, width: width, threads: twoPool)
        expectSameBits(one, expected)
        expectSameBits(two, expected)
    }
}
