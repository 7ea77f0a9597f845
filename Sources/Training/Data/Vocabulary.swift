/// The symbols of a model: what each token stands for, and back.
public struct Vocabulary: Sendable, Equatable {
    public typealias Format = DataConfiguration.Format

    /// Unknown words; always token 0 of a vocabulary of words.
    public static let unknown = "<unk>"
    /// The end of a line of words; token 1 where lines end with one.
    public static let endOfLine = "<eos>"

    public let format: Format
    /// `V`.
    public let count: Int
    /// The text of each token for `characters` and `words`; empty for the others.
    public let symbols: [String]
    private let tokens: [String: Int32]

    /// The 256 bytes.
    public static let bytes = Vocabulary(format: .bytes, count: 256, symbols: [])

    /// Tokens without text.
    public static func tokens(_ count: Int) -> Vocabulary { Vocabulary(format: .tokens, count: count, symbols: []) }

    public init(characters symbols: [String]) {
        self.init(format: .characters, count: symbols.count, symbols: symbols)
    }

    public init(words symbols: [String]) {
        self.init(format: .words, count: symbols.count, symbols: symbols)
    }

    private init(format: Format, count: Int, symbols: [String]) {
        self.format = format
        self.count = count
        self.symbols = symbols
        tokens = Dictionary(symbols.enumerated().map { ($1, Int32($0)) }, uniquingKeysWith: { first, _ in first })
    }

    public func token(_ symbol: String) -> Int32? { tokens[symbol] }

    /// Text to tokens. Unknown words become `<unk>`; `tokens` reads numbers between white space.
    /// - Throws: `.unknownSymbol` for a character, or a number outside the vocabulary.
    public func encode(_ text: String) throws(DataError) -> [Int32] {
        switch format {
        case .bytes: return text.utf8.map(Int32.init)
        case .characters:
            var result: [Int32] = []
            for scalar in text.unicodeScalars {
                guard let token = tokens[String(scalar)] else { throw .unknownSymbol(String(scalar)) }
                result.append(token)
            }
            return result
        case .words:
            var result: [Int32] = []
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
            for (index, line) in lines.enumerated() {
                for word in line.split(whereSeparator: \.isWhitespace) { result.append(tokens[String(word)] ?? 0) }
                // The text after the last newline is a line that has not ended yet.
                if index < lines.count - 1, let end = tokens[Self.endOfLine] { result.append(end) }
            }
            return result
        case .tokens:
            var result: [Int32] = []
            for word in text.split(whereSeparator: \.isWhitespace) {
                guard let token = Int32(word), (0..<count).contains(Int(token)) else {
                    throw .unknownSymbol(String(word))
                }
                result.append(token)
            }
            return result
        }
    }

    /// Tokens to text. Bytes that are not UTF-8 become replacement characters.
    public func decode(_ tokens: [Int32]) -> String {
        switch format {
        case .bytes: return String(decoding: tokens.map { UInt8(truncatingIfNeeded: $0) }, as: UTF8.self)
        case .characters: return tokens.map { symbols[Int($0)] }.joined()
        case .words:
            var text = ""
            for token in tokens {
                let word = symbols[Int(token)]
                if word == Self.endOfLine {
                    text += "\n"
                } else {
                    if !text.isEmpty, !text.hasSuffix("\n") { text += " " }
                    text += word
                }
            }
            return text
        case .tokens: return tokens.map(String.init).joined(separator: " ")
        }
    }

    /// 16 hexadecimal digits that differ, in practice, between different vocabularies (FNV-1a, 64 bits).
    public var vocabularyHash: String {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        func mix(_ text: String) {
            // 0xFF occurs in no UTF-8 text, so it separates the symbols.
            for byte in Array(text.utf8) + [0xFF] { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
        }
        mix(format.rawValue)
        mix(String(count))
        symbols.forEach(mix)
        let digits = String(hash, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    /// Checks that data read now means the same as in a checkpoint.
    public func requireSame(as saved: Vocabulary) throws(DataError) {
        guard self != saved else { return }
        if format != saved.format {
            throw .vocabularyMismatch(
                "the checkpoint's format is \(saved.format.rawValue), the data's \(format.rawValue)")
        }
        let sizes = "the checkpoint has \(saved.count) symbols, the data \(count)"
        guard let index = zip(saved.symbols, symbols).enumerated().first(where: { $1.0 != $1.1 })?.offset else {
            throw .vocabularyMismatch(sizes)
        }
        throw .vocabularyMismatch(
            "\(sizes), and token \(index) is '\(saved.symbols[index])' there but '\(symbols[index])' here")
    }

    /// For the checkpoint.
    public var json: JSON {
        .object([
            .init("format", .string(format.rawValue)), .init("count", .int(count)),
            .init("hash", .string(vocabularyHash)), .init("symbols", .array(symbols.map(JSON.string))),
        ])
    }

    /// - Parameter path: the file it came from, for messages.
    public init(_ json: JSON, path: String) throws(DataError) {
        guard let format = json["format"]?.string.flatMap(Format.init), let count = json["count"]?.int,
            let symbols = json["symbols"]?.array?.compactMap(\.string), symbols.isEmpty || symbols.count == count
        else { throw .badFormat(path: path, "is not a vocabulary; expected 'format', 'count' and 'symbols'") }
        self.init(format: format, count: count, symbols: symbols)
        guard json["hash"]?.string == vocabularyHash else {
            throw .badFormat(path: path, "the vocabulary's hash is not that of its symbols; the file was changed")
        }
    }
}
