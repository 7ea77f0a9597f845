import Kernels

/// The random numbers of one example: Philox words in order, under a name of their own.
public struct TaskRandom: Sendable {
    private static let blockSize = 64

    private let stream: PhiloxStream
    private var words: [UInt32] = []
    private var used = 0
    private var first = 0

    public init(_ stream: PhiloxStream) { self.stream = stream }

    private mutating func next() -> UInt32 {
        if used == words.count {
            words = Philox.words(stream, first: first, count: Self.blockSize)
            first += Self.blockSize
            used = 0
        }
        used += 1
        return words[used - 1]
    }

    /// Uniform in `0..<bound`, but for a bias below `bound / 2³²`.
    public mutating func below(_ bound: Int) -> Int { Int((UInt64(next()) * UInt64(bound)) >> 32) }

    /// Uniform in `[0, 1)`, 32 bits.
    public mutating func uniform() -> Double { Double(next()) / 0x1p32 }

    /// `count` different numbers of `0..<bound`, every sequence of them equally likely.
    public mutating func distinct(_ count: Int, below bound: Int) -> [Int] {
        // Fisher-Yates over an array that is only written down where it has changed.
        var moved: [Int: Int] = [:]
        return (0..<count).map { i in
            let j = i + below(bound - i)
            let drawn = moved[j] ?? j
            moved[j] = moved[i] ?? i
            return drawn
        }
    }

    /// `count` different indices, each drawn in proportion to its weight among those left.
    public mutating func distinct(_ count: Int, weights: [Double]) -> [Int] {
        var left = Array(weights.enumerated())
        return (0..<count).map { _ in
            var mark = uniform() * left.reduce(0) { $0 + $1.element }
            let place = left.firstIndex {
                mark -= $0.element
                return mark < 0
            }
            // Rounding may leave the mark at the very end.
            return left.remove(at: place ?? left.count - 1).offset
        }
    }
}
