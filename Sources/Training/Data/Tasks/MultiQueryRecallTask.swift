import Glibc
public import Models

/// Multi-query associative recall: `n` pairs of a key (`1...V/2 − 1`) and a value (`V/2...V − 1`), all different, are
/// shown `passes` times in one order; then every key comes once more, and its value is to be predicted there.
///
/// After the pairs, slots of two tokens are left; the `n` queries stand at the start of different slots, slot `g`
/// (from 0) drawn with weight `a (g + 1)^(a − 1)`, so that most come soon. The rest is random tokens, or 0.
///
/// Keys: `alphabet_size` V (512, even), `pairs` n (4), `passes` (1), `decay` a (0.01), `random_fill` (true).
/// Source: arXiv 2312.04927.
public struct MultiQueryRecallTask: GeneratedTask {
    public static let name = "multi_query_recall"
    public let vocabularySize: Int
    private let length, pairCount, passCount: Int
    private let fillsRandomly: Bool
    /// Of the slots after the pairs.
    private let weights: [Double]

    public init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError) {
        self.length = length
        vocabularySize = try reader.int("alphabet_size", default: 512, in: 4...1 << 20)
        pairCount = try reader.int("pairs", default: 4, in: 1...1 << 20)
        passCount = try reader.int("passes", default: 1, in: 1...1 << 20)
        let decay = try reader.double("decay", default: 0.01, above: 0)
        fillsRandomly = try reader.bool("random_fill", default: true)
        guard vocabularySize % 2 == 0, pairCount < vocabularySize / 2 else {
            throw reader.error(
                "alphabet_size", "must be even and at least \(2 * pairCount + 2), for \(pairCount) pairs")
        }
        let needed = 2 * pairCount * (passCount + 1)
        if length < needed { throw reader.tooShort("pairs", length: length, needed: needed) }
        weights = (0..<(length - 2 * pairCount * passCount) / 2).map { decay * pow(Double($0 + 1), decay - 1) }
    }

    public func example(_ random: inout TaskRandom) -> TaskExample {
        var example = TaskExample(length: length)
        if fillsRandomly {
            for place in 0..<length { example.inputs[place] = Int32(random.below(vocabularySize)) }
        }
        let half = vocabularySize / 2
        let keys = random.distinct(pairCount, below: half - 1).map { Int32(1 + $0) }
        let values = random.distinct(pairCount, below: half).map { Int32(half + $0) }
        let start = 2 * pairCount * passCount
        for place in 0..<start / 2 {
            example.inputs[2 * place] = keys[place % pairCount]
            example.inputs[2 * place + 1] = values[place % pairCount]
        }
        for (number, slot) in random.distinct(pairCount, weights: weights).enumerated() {
            example.inputs[start + 2 * slot] = keys[number]
            example.targets[start + 2 * slot] = values[number]
        }
        return example
    }
}
