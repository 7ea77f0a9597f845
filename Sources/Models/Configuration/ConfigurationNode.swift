/// Where a piece of configuration was written. Lines and columns count from 1; line 0 means that the
/// source has no lines, such as an override on the command line.
public struct SourceLocation: Sendable, Equatable, CustomStringConvertible {
    public var file: String
    public var line: Int
    public var column: Int

    public init(file: String, line: Int = 0, column: Int = 0) {
        self.file = file
        self.line = line
        self.column = column
    }

    public var description: String { line == 0 ? file : "\(file):\(line):\(column)" }
}

/// A configuration tree, independent of the syntax it was written in. Scalars keep their text, so that
/// each reader decides what `1e-3` or `true` means and can quote it back in an error.
public struct ConfigurationNode: Sendable {
    public enum Content: Sendable {
        /// `quoted` is true where the text is a string whatever it looks like.
        case scalar(String, quoted: Bool)
        case sequence([ConfigurationNode])
        /// Entries in the order written; keys are unique.
        case mapping([Entry])
    }

    public struct Entry: Sendable {
        public var key: String
        public var keyLocation: SourceLocation
        public var value: ConfigurationNode

        public init(key: String, keyLocation: SourceLocation, value: ConfigurationNode) {
            self.key = key
            self.keyLocation = keyLocation
            self.value = value
        }
    }

    public var content: Content
    public var location: SourceLocation

    public init(_ content: Content, at location: SourceLocation) {
        self.content = content
        self.location = location
    }

    /// An unquoted empty scalar, `~` or `null`: a key that is written but not set.
    public var isNull: Bool {
        guard case .scalar(let text, quoted: false) = content else { return false }
        return text.isEmpty || text == "~" || text == "null"
    }

    public subscript(key: String) -> ConfigurationNode? {
        guard case .mapping(let entries) = content else { return nil }
        return entries.first { $0.key == key }?.value
    }

    /// What the node is, in the words of an error message.
    var summary: String {
        switch content {
        case .scalar(let text, let quoted):
            if isNull { return "nothing" }
            let shown = text.count > 60 ? text.prefix(60) + "..." : text[...]
            return quoted ? "the string \"\(shown)\"" : "'\(shown)'"
        case .sequence(let elements): return "a list of \(elements.count)"
        case .mapping(let entries):
            return entries.isEmpty ? "an empty section" : "a section with '\(entries[0].key)'"
        }
    }
}
