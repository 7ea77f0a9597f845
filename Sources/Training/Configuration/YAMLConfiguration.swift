public import Models
import Yams

/// Reads configuration trees from YAML files and writes them back.
public enum YAMLConfiguration {
    /// Reads a configuration file and applies a plan file, then overrides from the command line to it.
    /// - Parameters:
    ///   - plan: a plan file; see `PlanFile`.
    ///   - overrides: `key.path=value`, in the order given; see `Overrides`.
    public static func load(
        _ file: String, plan: String? = nil, overrides: [String] = []
    ) throws(ConfigurationError) -> ConfigurationNode {
        let text: String
        do {
            text = try FileSystem.readText(file)
        } catch {
            switch error {
            case .isDirectory: throw .unreadable(file: file, reason: "is a directory; give a YAML file inside it")
            case .system(_, _, let code): throw .unreadable(file: file, reason: FileError.reason(code))
            default: throw .unreadable(file: file, reason: "is not UTF-8 text")
            }
        }
        var node = try parse(text, file: file)
        if let plan { node = try PlanFile.apply(plan, to: node) }
        return try Overrides.apply(overrides, to: node)
    }

    /// Parses one YAML document.
    /// - Parameter file: the name used in error messages.
    public static func parse(_ text: String, file: String) throws(ConfigurationError) -> ConfigurationNode {
        let start = SourceLocation(file: file, line: 1, column: 1)
        let root: Node?
        do {
            root = try Parser(yaml: text, encoding: .utf8).singleRoot()
        } catch let error as YamlError {
            throw Self.error(error, file: file)
        } catch {
            throw .syntax(start, "\(error)")
        }
        guard let root else { return ConfigurationNode(.mapping([]), at: start) }
        return try convert(root, file: file)
    }

    /// The tree as YAML text: the resolved configuration of a run, readable by `parse`.
    public static func dump(_ node: ConfigurationNode) -> String {
        var text = ""
        write(node, indent: 0, into: &text)
        return text
    }

    // MARK: Reading

    private static func convert(_ node: Node, file: String) throws(ConfigurationError) -> ConfigurationNode {
        let location = location(of: node.mark, file: file)
        switch node {
        case .scalar(let scalar):
            let quoted = scalar.style != .plain && scalar.style != .any
            return ConfigurationNode(.scalar(scalar.string, quoted: quoted), at: location)
        case .sequence(let sequence):
            var elements: [ConfigurationNode] = []
            for element in sequence { elements.append(try convert(element, file: file)) }
            return ConfigurationNode(.sequence(elements), at: location)
        case .mapping(let mapping):
            var entries: [ConfigurationNode.Entry] = []
            var merged: [ConfigurationNode.Entry] = []
            for (key, value) in mapping {
                let keyLocation = Self.location(of: key.mark, file: file)
                guard case .scalar(let scalar) = key else {
                    throw .syntax(keyLocation, "a key must be a plain word, not a list or a section")
                }
                let converted = try convert(value, file: file)
                if scalar.string == "<<", scalar.style == .plain {
                    merged += try entriesToMerge(converted)
                } else {
                    entries.append(.init(key: scalar.string, keyLocation: keyLocation, value: converted))
                }
            }
            for entry in merged where !entries.contains(where: { $0.key == entry.key }) { entries.append(entry) }
            return ConfigurationNode(.mapping(entries), at: location)
        case .alias:
            throw .syntax(location, "this alias names no anchor")
        }
    }

    /// `<<: *anchor` or `<<: [*first, *second]`: keys of earlier sections win.
    private static func entriesToMerge(
        _ node: ConfigurationNode
    ) throws(ConfigurationError) -> [ConfigurationNode.Entry] {
        switch node.content {
        case .mapping(let entries): return entries
        case .sequence(let elements):
            var entries: [ConfigurationNode.Entry] = []
            for element in elements { entries += try entriesToMerge(element) }
            return entries
        case .scalar: throw .syntax(node.location, "'<<' merges sections; give it an alias such as *name")
        }
    }

    private static func location(of mark: Mark?, file: String) -> SourceLocation {
        SourceLocation(file: file, line: mark?.line ?? 1, column: mark?.column ?? 1)
    }

    private static func error(_ error: YamlError, file: String) -> ConfigurationError {
        switch error {
        case .scanner(let context, let problem, let mark, _), .parser(let context, let problem, let mark, _),
            .composer(let context, let problem, let mark, _):
            let place = location(of: mark, file: file)
            guard let context else { return .syntax(place, "invalid YAML: \(problem)") }
            return .syntax(place, "invalid YAML: \(problem) (\(context.text) at line \(context.mark.line))")
        case .duplicatedKeysInMapping(let duplicates, let context):
            let keys = duplicates.map { "'\($0)'" }.joined(separator: ", ")
            return .syntax(
                location(of: context.mark, file: file), "key \(keys) is written twice in one section; remove one")
        case .reader(let problem, let offset, _, let text):
            let before = text.prefix(offset ?? 0)
            let line = before.split(separator: "\n", omittingEmptySubsequences: false)
            let place = SourceLocation(file: file, line: max(line.count, 1), column: (line.last?.count ?? 0) + 1)
            return .syntax(place, "invalid YAML: \(problem)")
        default:
            return .syntax(SourceLocation(file: file, line: 1, column: 1), "invalid YAML: \(error)")
        }
    }

    // MARK: Writing

    private static func write(_ node: ConfigurationNode, indent: Int, into text: inout String) {
        let margin = String(repeating: " ", count: indent)
        switch node.content {
        case .scalar(let value, let quoted):
            text += margin + scalar(value, quoted: quoted) + "\n"
        case .mapping(let entries):
            if entries.isEmpty { text += margin + "{}\n" }
            for entry in entries {
                text += margin + scalar(entry.key, quoted: true) + ":"
                writeValue(entry.value, indent: indent, into: &text)
            }
        case .sequence(let elements):
            if let line = flow(node) {
                text += margin + line + "\n"
                return
            }
            for element in elements {
                // The first line of the element moves up beside its dash.
                var inner = ""
                write(element, indent: indent + 2, into: &inner)
                text += margin + "- " + inner.dropFirst(indent + 2)
            }
        }
    }

    private static func writeValue(_ value: ConfigurationNode, indent: Int, into text: inout String) {
        if let line = flow(value) {
            text += " \(line)\n"
        } else {
            text += "\n"
            write(value, indent: indent + 2, into: &text)
        }
    }

    /// Scalars, lists of scalars and empty sections fit on one line.
    private static func flow(_ node: ConfigurationNode) -> String? {
        switch node.content {
        case .scalar(let value, let quoted): return scalar(value, quoted: quoted)
        case .mapping(let entries): return entries.isEmpty ? "{}" : nil
        case .sequence(let elements):
            var parts: [String] = []
            for element in elements {
                guard case .scalar(let value, let quoted) = element.content else { return nil }
                parts.append(scalar(value, quoted: quoted))
            }
            return "[\(parts.joined(separator: ", "))]"
        }
    }

    /// Strings stay bare where they cannot be read as anything else.
    private static func scalar(_ value: String, quoted: Bool) -> String {
        let words: Set<String> = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        let safe = value.unicodeScalars.allSatisfy { scalar in
            scalar.isASCII
                && (scalar.properties.isAlphabetic || ("0"..."9").contains(scalar)
                    || "_-./*+".unicodeScalars.contains(scalar))
        }
        if !quoted, safe, !value.isEmpty { return value }
        let wordLike = value.unicodeScalars.first.map { $0.properties.isAlphabetic || $0 == "/" || $0 == "_" } ?? false
        if safe, wordLike, !words.contains(value.lowercased()) { return value }
        var result = "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case "\r": result += "\\r"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let digits = String(scalar.value, radix: 16)
                result += "\\x" + (digits.count == 1 ? "0" : "") + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
