public import Models

/// Induction heads: among random tokens `0...V − 2` stands, once, the trigger `V − 1`; when it comes again, at the end,
/// the token that followed it is to be predicted.
///
/// Keys: `alphabet_size` V (16). Source: arXiv 2212.14052, 2312.00752.
public struct InductionTask: GeneratedTask {
    public static let name = "induction"
    public let vocabularySize: Int
    private let length: Int

    public init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError) {
        self.length = length
        vocabularySize = try reader.int("alphabet_size", default: 16, in: 3...1 << 20)
        if length < 3 { throw reader.tooShort("task", length: length, needed: 3) }
    }

    public func example(_ random: inout TaskRandom) -> TaskExample {
        var example = TaskExample(length: length)
        for place in 0..<length { example.inputs[place] = Int32(random.below(vocabularySize - 1)) }
        let place = random.below(length - 2)
        example.inputs[place] = Int32(vocabularySize - 1)
        example.inputs[length - 1] = Int32(vocabularySize - 1)
        example.targets[length - 1] = example.inputs[place + 1]
        return example
    }
}
