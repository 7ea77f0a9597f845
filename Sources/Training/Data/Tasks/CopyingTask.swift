public import Models

/// Copying: `M` data tokens, uniform on `1...A − 2`, are to be repeated in order at the `M` markers (`A − 1`) at the
/// end; what lies between is blank (0). Plain, the data come first; selective, they stand at random places
/// of the first `T − M`. A model without memory loses `ln(A − 2)` a token.
///
/// Keys: `alphabet_size` A (10), `count` M (8), `selective` (false), `reverse` (false: the order of the data).
/// Source: arXiv 1511.06464 (copying), 2312.00752 (selective).
public struct CopyingTask: GeneratedTask {
    public static let name = "copying"
    public let vocabularySize: Int
    private let length, count: Int
    private let isSelective, isReversed: Bool

    public init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError) {
        self.length = length
        vocabularySize = try reader.int("alphabet_size", default: 10, in: 3...1 << 20)
        count = try reader.int("count", default: 8, in: 1...1 << 20)
        isSelective = try reader.bool("selective", default: false)
        isReversed = try reader.bool("reverse", default: false)
        if length < 2 * count { throw reader.tooShort("count", length: length, needed: 2 * count) }
    }

    public func example(_ random: inout TaskRandom) -> TaskExample {
        var example = TaskExample(length: length)
        let end = length - count
        let places = isSelective ? random.distinct(count, below: end).sorted() : Array(0..<count)
        for (number, place) in places.enumerated() {
            let token = Int32(1 + random.below(vocabularySize - 2))
            example.inputs[place] = token
            example.inputs[end + number] = Int32(vocabularySize - 1)
            example.targets[isReversed ? length - 1 - number : end + number] = token
        }
        return example
    }
}
