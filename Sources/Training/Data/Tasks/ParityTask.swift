public import Models

/// N-parity: the parity of the last `N` bits of a sequence. The model is asked once, at its end; its length is
/// uniform in `N + 2 ..< 4N + 2`, so that no bit's place tells whether it counts. Bits are 1 with a probability that is
/// itself uniform, drawn for each sequence. Zeros fill the row up.
///
/// Keys: `bits` N (4). Source: arXiv 2309.12927, with lengths drawn for each sequence instead of each batch.
public struct ParityTask: GeneratedTask {
    public static let name = "parity"
    public let vocabularySize = 2
    private let length, bitCount: Int

    public init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError) {
        (self.length, bitCount) = (length, try reader.bitCount(length: length))
    }

    public func example(_ random: inout TaskRandom) -> TaskExample {
        let probability = random.uniform()
        return .bits(length: length, count: bitCount, probability: probability, &random) { window in
            window.reduce(0, ^)
        }
    }
}

/// N-delayed match to sample: whether the first of the last `N` bits equals the last one. Layout and lengths are those
/// of `ParityTask`; bits are fair.
///
/// Keys: `bits` N (4). Source: as there.
public struct DelayedMatchTask: GeneratedTask {
    public static let name = "delayed_match"
    public let vocabularySize = 2
    private let length, bitCount: Int

    public init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError) {
        (self.length, bitCount) = (length, try reader.bitCount(length: length))
    }

    public func example(_ random: inout TaskRandom) -> TaskExample {
        .bits(length: length, count: bitCount, probability: 0.5, &random) { $0.first == $0.last ? 1 : 0 }
    }
}

extension ConfigurationReader {
    fileprivate func bitCount(length: Int) throws(ConfigurationError) -> Int {
        let count = try int("bits", default: 4, in: 2...1 << 20)
        if length < 4 * count + 1 { throw tooShort("bits", length: length, needed: 4 * count + 1) }
        return count
    }
}

extension TaskExample {
    /// A sequence of bits with a question about its last `count` at the end.
    fileprivate static func bits(
        length: Int, count: Int, probability: Double, _ random: inout TaskRandom, answer: (ArraySlice<Int32>) -> Int32
    ) -> TaskExample {
        var example = TaskExample(length: length)
        let end = count + 2 + random.below(3 * count)
        for place in 0..<end { example.inputs[place] = random.uniform() < probability ? 1 : 0 }
        example.targets[end - 1] = answer(example.inputs[end - count..<end])
        return example
    }
}
