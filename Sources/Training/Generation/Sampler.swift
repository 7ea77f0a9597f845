import Glibc
import Kernels

/// How the next token is drawn: temperature, then top-k, then top-p, then a draw keyed by
/// `(seed, stream, position)`, so that a run can be repeated on any number of ranks.
public struct SamplingOptions: Sendable, Equatable {
    /// 0 picks the most likely token (the lowest id among equals).
    public var temperature: Double
    /// Keep the `k` most likely tokens.
    public var topK: Int?
    /// Keep the smallest set whose probabilities reach `p`, the crossing token included.
    public var topP: Double?
    public var seed: UInt64

    public init(temperature: Double = 1, topK: Int? = nil, topP: Double? = nil, seed: UInt64 = 1) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.seed = seed
    }
}

public struct Sampler: Sendable {
    public let options: SamplingOptions

    private let stream: Int

    /// - Parameter stream: which of several texts with the same seed.
    public init(_ options: SamplingOptions, stream: Int = 0) {
        self.options = options
        self.stream = stream
    }

    /// A number in [0, 1) with 53 random bits.
    private func uniform(_ position: Int) -> Double {
        let stream = PhiloxStream(seed: options.seed, a: UInt32(stream), c: 2)
        let words = Philox.words(stream, first: 2 * position, count: 2)
        return Double(UInt64(words[0]) << 21 ^ UInt64(words[1]) >> 11) * 0x1p-53
    }

    /// - Parameters:
    ///   - logits: `[V]`, natural-log scale.
    ///   - position: index of the token to be drawn, the counter of the random draw.
    public func next(_ logits: UnsafeBufferPointer<Float>, position: Int) -> Int {
        var best = 0
        for i in 1..<max(1, logits.count) where logits[i] > logits[best] { best = i }
        guard options.temperature > 0 else { return best }

        let top = Double(logits[best])
        var candidates = logits.indices.map { (id: $0, weight: exp((Double(logits[$0]) - top) / options.temperature)) }
        if options.topK != nil || options.topP != nil {
            candidates.sort { $0.weight != $1.weight ? $0.weight > $1.weight : $0.id < $1.id }
        }
        if let k = options.topK, k < candidates.count { candidates.removeLast(candidates.count - k) }
        if let p = options.topP {
            let total = candidates.reduce(0) { $0 + $1.weight }
            var mass = 0.0
            let kept = candidates.firstIndex {
                mass += $0.weight
                return mass >= p * total
            }
            if let kept { candidates.removeLast(candidates.count - kept - 1) }
        }
        let total = candidates.reduce(0) { $0 + $1.weight }
        var remaining = uniform(position) * total
        for candidate in candidates {
            remaining -= candidate.weight
            if remaining < 0 { return candidate.id }
        }
        return candidates.last!.id
    }
}
