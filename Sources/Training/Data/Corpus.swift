/// The tokens of all splits and their vocabulary, read once before training.
///
/// Bytes and token files stay mapped; characters and words are encoded in memory.
public final class Corpus: Sendable {
    public enum Split: String, Sendable, CaseIterable { case train, valid, test }

    public let vocabulary: Vocabulary
    private let splits: [Split: TokenSequence]

    public init(_ configuration: DataConfiguration) throws(DataError) {
        let sources = try Self.files(of: configuration)
        let encoded: (Vocabulary, [Split: TokenSequence])
        switch configuration.format {
        case .bytes: encoded = try Self.bytes(sources, configuration)
        case .characters: encoded = try Self.characters(sources, configuration)
        case .words: encoded = try Self.words(sources, configuration)
        case .tokens: encoded = try Self.tokens(sources, configuration)
        }
        (vocabulary, splits) = encoded
        for split in Split.allCases {
            if let tokens = splits[split], tokens.count == 0 { throw .emptySplit(split.rawValue) }
        }
    }

    /// - Throws: `.emptySplit` if the configuration gives the split no text.
    public func tokens(_ split: Split) throws(DataError) -> TokenSequence {
        guard let tokens = splits[split] else { throw .emptySplit(split.rawValue) }
        return tokens
    }

    public func has(_ split: Split) -> Bool { splits[split] != nil }

    // MARK: Sources

    /// The files of each split; only `train` if they are cut by shares afterwards.
    private static func files(of configuration: DataConfiguration) throws(DataError) -> [(Split, [String])] {
        switch configuration.source {
        case .cut(let patterns, _): return [(.train, try configuration.files(patterns))]
        case .files(let train, let valid, let test):
            var result: [(Split, [String])] = []
            for (split, patterns) in [(Split.train, train), (.valid, valid), (.test, test)] where !patterns.isEmpty {
                result.append((split, try configuration.files(patterns)))
            }
            return result
        }
    }

    /// Positions of the splits in a joined text of `count` tokens; each boundary is rounded down, and shares
    /// that sum to 1 leave nothing over.
    private static func ranges(_ count: Int, _ configuration: DataConfiguration) -> [(Split, Range<Int>)]? {
        guard case .cut(_, let shares) = configuration.source else { return nil }
        var result: [(Split, Range<Int>)] = []
        var sum = 0.0
        var start = 0
        for (split, share) in zip(Split.allCases, shares) {
            sum += share
            let end = sum > 1 - 1e-9 ? count : Int(Double(count) * sum)
            // A share of zero means that there is no such split.
            if share > 0 { result.append((split, start..<end)) }
            start = end
        }
        return result
    }

    private static func cut(
        _ sequences: [(Split, TokenSequence)], _ configuration: DataConfiguration
    ) -> [Split: TokenSequence] {
        guard let joined = sequences.first?.1, let ranges = ranges(joined.count, configuration) else {
            return Dictionary(uniqueKeysWithValues: sequences)
        }
        return Dictionary(uniqueKeysWithValues: ranges.map { ($0, joined.slice($1)) })
    }

    private static func map(_ path: String) throws(DataError) -> MappedFile {
        do { return try MappedFile(path) } catch { throw .file(error) }
    }

    // MARK: Formats

    private static func bytes(
        _ sources: [(Split, [String])], _ configuration: DataConfiguration
    ) throws(DataError) -> (Vocabulary, [Split: TokenSequence]) {
        var sequences: [(Split, TokenSequence)] = []
        for (split, paths) in sources {
            if paths.count == 1 {
                sequences.append((split, TokenSequence(bytesOf: try map(paths[0]))))
            } else {
                var joined: [UInt8] = []
                for path in paths { try map(path).withBytes { joined.append(contentsOf: $0) } }
                sequences.append((split, TokenSequence(joined)))
            }
        }
        return (.bytes, cut(sequences, configuration))
    }

    private static func characters(
        _ sources: [(Split, [String])], _ configuration: DataConfiguration
    ) throws(DataError) -> (Vocabulary, [Split: TokenSequence]) {
        var texts: [(Split, [Unicode.Scalar])] = []
        for (split, paths) in sources {
            var scalars: [Unicode.Scalar] = []
            for path in paths {
                do { scalars.append(contentsOf: try FileSystem.readText(path).unicodeScalars) } catch {
                    throw .file(error)
                }
            }
            texts.append((split, scalars))
        }
        // One entry for every scalar there can be: 4 MiB, and a lookup is a load.
        var numbers = [Int32](repeating: -1, count: 0x11_0000)
        for (_, scalars) in texts { for scalar in scalars { numbers[Int(scalar.value)] = 0 } }
        var symbols: [String] = []
        for value in numbers.indices where numbers[value] == 0 {
            numbers[value] = Int32(symbols.count)
            symbols.append(String(Unicode.Scalar(UInt32(value))!))
        }
        let sequences = texts.map { split, scalars in
            let tokens = scalars.map { numbers[Int($0.value)] }
            return (split, TokenSequence(tokens, vocabularySize: symbols.count))
        }
        return (Vocabulary(characters: symbols), cut(sequences, configuration))
    }

    /// Token 0 is `<unk>`, token 1 `<eos>` if lines end with it; then the words of the train split from the
    /// most frequent down, equally frequent ones by their bytes.
    private static func words(
        _ sources: [(Split, [String])], _ configuration: DataConfiguration
    ) throws(DataError) -> (Vocabulary, [Split: TokenSequence]) {
        var table = WordTable()
        var texts: [(Split, [Int32])] = []
        for (split, paths) in sources {
            var numbers: [Int32] = []
            for path in paths {
                try map(path).withBytes { table.append($0, lineEnds: configuration.endOfLine, to: &numbers) }
            }
            texts.append((split, numbers))
        }
        if let joined = texts.first?.1, let ranges = ranges(joined.count, configuration) {
            texts = ranges.map { ($0, Array(joined[$1])) }
        }
        var counts = [Int](repeating: 0, count: table.count)
        for number in texts.first?.1 ?? [] where number >= 0 { counts[Int(number)] += 1 }
        let reserved = configuration.endOfLine ? [Vocabulary.unknown, Vocabulary.endOfLine] : [Vocabulary.unknown]
        var kept: [(number: Int, count: Int, word: String)] = []
        for number in 0..<table.count where counts[number] >= configuration.minimumCount {
            let word = table[number]
            if !reserved.contains(word) { kept.append((number, counts[number], word)) }
        }
        kept.sort { $0.count != $1.count ? $0.count > $1.count : $0.word.utf8.lexicographicallyPrecedes($1.word.utf8) }
        if let size = configuration.vocabularySize { kept = Array(kept.prefix(max(size - reserved.count, 0))) }
        // Whatever is not kept, a literal `<unk>` included, is token 0.
        var tokens = [Int32](repeating: 0, count: table.count)
        for (index, word) in kept.enumerated() { tokens[word.number] = Int32(index + reserved.count) }
        if configuration.endOfLine {
            for number in 0..<table.count where table[number] == Vocabulary.endOfLine { tokens[number] = 1 }
        }
        let vocabulary = Vocabulary(words: reserved + kept.map(\.word))
        let sequences = texts.map { split, numbers in
            (split, TokenSequence(numbers.map { $0 < 0 ? 1 : tokens[Int($0)] }, vocabularySize: vocabulary.count))
        }
        return (vocabulary, Dictionary(uniqueKeysWithValues: sequences))
    }

    private static func tokens(
        _ sources: [(Split, [String])], _ configuration: DataConfiguration
    ) throws(DataError) -> (Vocabulary, [Split: TokenSequence]) {
        var sequences: [(Split, TokenSequence)] = []
        for (split, paths) in sources {
            if paths.count == 1 {
                sequences.append((split, try TokenSequence(tokenFile: paths[0])))
            } else {
                var joined: [Int32] = []
                for path in paths {
                    let part = try TokenSequence(tokenFile: path)
                    var tokens = [Int32](repeating: 0, count: part.count)
                    tokens.withUnsafeMutableBufferPointer { part.copy(0..<part.count, to: $0.baseAddress!) }
                    joined += tokens
                }
                sequences.append((split, TokenSequence(joined)))
            }
        }
        let size = configuration.vocabularySize ?? (sequences.map { $1.maximum() }.max() ?? -1) + 1
        for (split, sequence) in sequences {
            if let bad = sequence.firstToken(outside: size) {
                throw .tokenOutOfRange(
                    split: split.rawValue, token: bad.token, position: bad.position, vocabularySize: size)
            }
        }
        return (.tokens(size), cut(sequences, configuration))
    }
}
