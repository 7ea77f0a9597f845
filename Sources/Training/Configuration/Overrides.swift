public import Models

/// Changes to a configuration given on the command line.
///
/// `train.steps=5` sets a value and creates missing sections on the way; `model.layers[0].repeat=2` reaches
/// into a list, whose length cannot change. The value is YAML: `data.text=[a.txt, b.txt]`, `key=null`.
public enum Overrides {
    private enum Step {
        case key(String)
        case index(Int)
    }

    /// Applies `overrides` in order, so that the last one for a key wins.
    public static func apply(
        _ overrides: [String], to root: ConfigurationNode
    ) throws(ConfigurationError) -> ConfigurationNode {
        var result = root
        for text in overrides {
            guard let equals = text.firstIndex(of: "=") else {
                throw .badOverride(text, reason: "expected key.path=value, such as train.steps=5")
            }
            let path = try steps(of: text[..<equals], text)
            let value = try value(String(text[text.index(after: equals)...]), text)
            result = try set(result, path[...], under: "", value, text)
        }
        return result
    }

    /// `model.layers[0].repeat` as keys and indices.
    private static func steps(of path: Substring, _ text: String) throws(ConfigurationError) -> [Step] {
        var steps: [Step] = []
        for part in path.split(separator: ".", omittingEmptySubsequences: false) {
            let pieces = part.split(separator: "[", omittingEmptySubsequences: false)
            guard let key = pieces.first, !key.isEmpty else {
                throw .badOverride(text, reason: "the key path has an empty part; write it as in train.steps=5")
            }
            steps.append(.key(String(key)))
            for piece in pieces.dropFirst() {
                guard piece.hasSuffix("]"), let index = Int(piece.dropLast()), index >= 0 else {
                    throw .badOverride(text, reason: "'[\(piece)' is not a list index; write it as in model.layers[0]")
                }
                steps.append(.index(index))
            }
        }
        return steps
    }

    private static func value(_ yaml: String, _ text: String) throws(ConfigurationError) -> ConfigurationNode {
        let location = SourceLocation(file: "command line override '\(text)'")
        if yaml.allSatisfy(\.isWhitespace) { return ConfigurationNode(.scalar("", quoted: false), at: location) }
        do {
            return relocated(try YAMLConfiguration.parse(yaml, file: location.file), to: location)
        } catch {
            throw .badOverride(text, reason: "the value after '=' is not valid YAML; put quotes round it if it is text")
        }
    }

    private static func relocated(_ node: ConfigurationNode, to location: SourceLocation) -> ConfigurationNode {
        switch node.content {
        case .scalar: return ConfigurationNode(node.content, at: location)
        case .sequence(let elements):
            return ConfigurationNode(.sequence(elements.map { relocated($0, to: location) }), at: location)
        case .mapping(let entries):
            let moved = entries.map {
                ConfigurationNode.Entry(key: $0.key, keyLocation: location, value: relocated($0.value, to: location))
            }
            return ConfigurationNode(.mapping(moved), at: location)
        }
    }

    /// `node` with the value at `path` replaced. `parent` is the path of `node`, for messages.
    private static func set(
        _ node: ConfigurationNode, _ path: ArraySlice<Step>, under parent: String, _ value: ConfigurationNode,
        _ text: String
    ) throws(ConfigurationError) -> ConfigurationNode {
        guard let step = path.first else { return value }
        var node = node
        switch step {
        case .key(let key):
            var entries: [ConfigurationNode.Entry] = []
            if case .mapping(let present) = node.content {
                entries = present
            } else if !node.isNull {
                throw .badOverride(
                    text, reason: "'\(parent)' at \(node.location) is not a section, so it has no '\(key)'")
            }
            let child = parent.isEmpty ? key : "\(parent).\(key)"
            if let index = entries.firstIndex(where: { $0.key == key }) {
                entries[index].value = try set(entries[index].value, path.dropFirst(), under: child, value, text)
                if path.count == 1 { entries[index].keyLocation = value.location }
            } else {
                let empty = ConfigurationNode(.scalar("", quoted: false), at: value.location)
                let inner = try set(empty, path.dropFirst(), under: child, value, text)
                entries.append(.init(key: key, keyLocation: value.location, value: inner))
            }
            node.content = .mapping(entries)
        case .index(let index):
            guard case .sequence(var elements) = node.content else {
                throw .badOverride(text, reason: "'\(parent)' is not a list, so it has no element \(index)")
            }
            guard index < elements.count else {
                throw .badOverride(
                    text, reason: "'\(parent)' has \(elements.count) elements, numbered from 0; there is no [\(index)]")
            }
            elements[index] = try set(elements[index], path.dropFirst(), under: "\(parent)[\(index)]", value, text)
            node.content = .sequence(elements)
        }
        return node
    }
}
