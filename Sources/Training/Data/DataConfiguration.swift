import Glibc
public import Models

/// The `data` section for text and token files.
///
/// | key | meaning | default |
/// | --- | --- | --- |
/// | `format` | `bytes` (256 symbols), `characters` (sorted distinct Unicode scalars of all splits), `words` (between white space) or `tokens` (already encoded) | required |
/// | `text` | path, pattern (`*`, `?`, `[...]`) or list of them, joined in order and cut by `split`; `tokens` for that format | |
/// | `split` | shares of train, valid and, if three, test, in order of the text | `[0.9, 0.1]` |
/// | `train`, `valid`, `test` | paths or patterns of each split, instead of `text` and `split` | |
/// | `vocabulary_size` | `words`: keep the most frequent ones, `<unk>` and `<eos>` included; `tokens`: the number of symbols | all; largest token + 1 |
/// | `minimum_count` | `words`: rarer words in the train split become `<unk>` | 1 |
/// | `end_of_line` | `words`: `<eos>` after every line, blank ones too | true |
/// | `sampling` | `random` windows, or parallel `stream`s whose carry runs on from step to step | `random` |
///
/// Paths start at the configuration file's directory, or else at the current one. Token files are `.bin`
/// (uint16, little-endian, no header) or `.npy` (one dimension of uint8, uint16, int32, uint32 or int64).
public struct DataConfiguration: Sendable {
    public enum Format: String, Sendable, CaseIterable { case bytes, characters, words, tokens }
    public enum Sampling: String, Sendable, CaseIterable { case random, stream }

    public enum Source: Sendable, Equatable {
        /// One text cut by shares.
        case cut([String], shares: [Double])
        case files(train: [String], valid: [String], test: [String])
    }

    public var format: Format
    public var source: Source
    public var vocabularySize: Int?
    public var minimumCount: Int
    public var endOfLine: Bool
    public var sampling: Sampling
    /// `T`, from `train.sequence_length`.
    public var sequenceLength: Int
    /// `B`, from `train.batch_size`.
    public var batchSize: Int
    /// Where relative paths start.
    public var directory: String

    public init(
        format: Format, source: Source, vocabularySize: Int? = nil, minimumCount: Int = 1, endOfLine: Bool = true,
        sampling: Sampling = .random, sequenceLength: Int, batchSize: Int, directory: String = "."
    ) {
        self.format = format
        self.source = source
        self.vocabularySize = vocabularySize
        self.minimumCount = minimumCount
        self.endOfLine = endOfLine
        self.sampling = sampling
        self.sequenceLength = sequenceLength
        self.batchSize = batchSize
        self.directory = directory
    }

    /// - Parameter directory: that of the configuration file.
    public init(
        _ reader: ConfigurationReader, directory: String, batchSize: Int, sequenceLength: Int
    ) throws(ConfigurationError) {
        self.batchSize = batchSize
        self.sequenceLength = sequenceLength
        self.directory = directory
        format = try reader.choice("format")
        let joined = format == .tokens ? "tokens" : "text"
        let separate = reader.has("train")
        if reader.has(joined) {
            if separate { throw reader.error("train", "cannot be combined with '\(joined)'; keep one of them") }
            let shares = try reader.doubleList("split", default: [0.9, 0.1], in: 0...1)
            guard (1...3).contains(shares.count), shares.reduce(0, +) <= 1 + 1e-9 else {
                throw reader.error("split", "must be one to three shares (train, valid, test) that sum to at most 1")
            }
            source = .cut(try reader.stringList(joined), shares: shares)
        } else if separate {
            source = .files(
                train: try reader.stringList("train"), valid: try reader.stringList("valid", default: []),
                test: try reader.stringList("test", default: []))
        } else {
            throw reader.error(joined, "is missing; give '\(joined): path', or 'train: path' and 'valid: path'")
        }
        vocabularySize =
            format == .words || format == .tokens ? try reader.optionalInt("vocabulary_size", in: 3...1 << 30) : nil
        minimumCount = format == .words ? try reader.int("minimum_count", default: 1, in: 1 ... .max) : 1
        endOfLine = format == .words ? try reader.bool("end_of_line", default: true) : false
        sampling = try reader.choice("sampling", default: .random)
    }

    /// The files that paths and patterns stand for, in the order given; those of one pattern sorted.
    func files(_ patterns: [String]) throws(DataError) -> [String] {
        var result: [String] = []
        for pattern in patterns {
            let candidates =
                pattern.hasPrefix("/")
                ? [pattern] : directory == "." ? [pattern] : ["\(directory)/\(pattern)", pattern]
            let found = candidates.lazy.map(Self.expand).first { !$0.isEmpty }
            guard let found else { throw .noFile(pattern: pattern, tried: candidates) }
            result += found
        }
        return result
    }

    private static func expand(_ pattern: String) -> [String] {
        // A name that exists is meant literally, whatever it contains.
        if FileSystem.exists(pattern) { return [pattern] }
        var matches = glob_t()
        defer { globfree(&matches) }
        guard glob(pattern, 0, nil, &matches) == 0 else { return [] }
        return (0..<Int(matches.gl_pathc)).map { String(cString: matches.gl_pathv[$0]!) }
    }
}
