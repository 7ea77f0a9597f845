/// Data that cannot be trained on. Every description names the file or split, the figures, and the remedy.
public enum DataError: Error, Sendable, Equatable, CustomStringConvertible {
    case file(FileError)
    /// No file at a path, or none that fits a pattern.
    case noFile(pattern: String, tried: [String])
    case badFormat(path: String, String)
    case emptySplit(String)
    case splitTooShort(String, tokens: Int, needed: Int, reason: String)
    case tokenOutOfRange(split: String, token: Int, position: Int, vocabularySize: Int)
    /// A symbol that the vocabulary lacks, where there is no `<unk>`.
    case unknownSymbol(String)
    case vocabularyMismatch(String)

    public var description: String {
        switch self {
        case .file(let error): return error.description
        case .noFile(let pattern, let tried):
            return "data: no file matches '\(pattern)'; tried \(tried.joined(separator: " and "));"
                + " paths start at the configuration file's directory, then at the current one"
        case .badFormat(let path, let message): return "\(path): \(message)"
        case .emptySplit(let split):
            return "data: the \(split) split is empty; give it a file with text, or a larger share in data.split"
        case .splitTooShort(let split, let tokens, let needed, let reason):
            return "data: the \(split) split has \(tokens) tokens, but \(needed) are needed (\(reason));"
                + " give it more text, or reduce train.sequence_length or train.batch_size"
        case .tokenOutOfRange(let split, let token, let position, let size):
            return "data: token \(token) at position \(position) of the \(split) split is outside 0..<\(size);"
                + " raise data.vocabulary_size, or tokenize the file again"
        case .unknownSymbol(let symbol):
            return "the vocabulary has no symbol '\(symbol)'; leave it out, or train on data that contains it"
        case .vocabularyMismatch(let message):
            return "vocabulary mismatch: \(message); use the data the checkpoint was trained on"
        }
    }
}
