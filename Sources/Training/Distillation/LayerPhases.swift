import Autograd
import Kernels
import Pipeline
import Tensors

/// Where the layers of a teacher change what they do: the blocks that a recurrent student may have (arXiv 2512.19941).
public struct LayerPhases: Sendable {
    /// `[L][L]`: mean over tokens of 1 − cosine between the outputs of two layers.
    public let distances: [[Double]]

    public init(distances: [[Double]]) { self.distances = distances }

    /// - Parameter activations: of one batch or more, as `Teacher.activations` gives them.
    init(activations: [[Tensor]]) {
        let depth = activations[0].count - 1
        var sums = [[Double]](repeating: [Double](repeating: 0, count: depth), count: depth)
        var tokenCount = 0
        for outputs in activations.map({ $0.dropFirst() }).map(Array.init) {
            let (rows, width) = (outputs[0].rows, outputs[0].width)
            tokenCount += rows
            func dot(_ i: Int, _ j: Int, _ row: Int) -> Double {
                let (a, b) = (outputs[i].pointer + row * width, outputs[j].pointer + row * width)
                return (0..<width).reduce(0) { $0 + Double(a[$1]) * Double(b[$1]) }
            }
            for row in 0..<rows {
                let norms = (0..<depth).map { dot($0, $0, row).squareRoot() }
                for i in 0..<depth {
                    for j in i + 1..<max(depth, i + 1) {
                        let distance = 1 - dot(i, j, row) / max(norms[i] * norms[j], 1e-30)
                        sums[i][j] += distance
                        sums[j][i] += distance
                    }
                }
            }
        }
        distances = sums.map { $0.map { $0 / Double(tokenCount) } }
    }

    /// Splits the layers where the distances across the cut sum to the most, again and again while that is more than
    /// `fraction` of the distances between all layers.
    ///
    /// - Parameter minimumSize: layers of a phase, at least.
    public func phases(fraction: Double, minimumSize: Int = 2) -> [Range<Int>] {
        let depth = distances.count
        let total = (0..<depth).reduce(0.0) { sum, i in (0..<i).reduce(sum) { $0 + distances[i][$1] } }
        func split(_ layers: Range<Int>) -> [Range<Int>] {
            let first = layers.lowerBound + minimumSize
            guard first <= layers.upperBound - minimumSize else { return [layers] }
            let cuts = (first...layers.upperBound - minimumSize).map { cut in
                (
                    cut,
                    weight: (layers.lowerBound..<cut).reduce(0.0) { sum, i in
                        (cut..<layers.upperBound).reduce(sum) { $0 + distances[i][$1] }
                    }
                )
            }
            let best = cuts.reduce(cuts[0]) { $1.weight > $0.weight ? $1 : $0 }
            guard best.weight > fraction * total else { return [layers] }
            return split(layers.lowerBound..<best.0) + split(best.0..<layers.upperBound)
        }
        return split(0..<depth)
    }
}
