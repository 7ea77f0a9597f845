/// Reads one section of a configuration strictly: every value is checked where it is read, and `finish`
/// turns each key that nobody asked for into an error. It records what it handed out, defaults included,
/// as the `resolved` configuration of the run.
///
/// A key that is written without a value (`key:`, `null`) counts as absent.
public final class ConfigurationReader {
    /// Full path of the section, such as `model.layers[0].mixer`; empty for the whole file.
    public let path: String
    public let location: SourceLocation
    private let entries: [ConfigurationNode.Entry]
    /// Names that mean something here, in the order asked for.
    private var allowed: [String] = []
    private var consumed: Set<String> = []
    private var children: [ConfigurationReader] = []
    private var record: [(key: String, value: Record)] = []

    private enum Record {
        case node(ConfigurationNode)
        case section(ConfigurationReader)
        case sections([ConfigurationReader])
    }

    /// A reader over a mapping. An empty node reads as an empty section.
    /// - Throws: `.mismatch` if the node is a scalar or a list.
    public init(_ node: ConfigurationNode, path: String = "") throws(ConfigurationError) {
        self.path = path
        self.location = node.location
        if case .mapping(let entries) = node.content {
            self.entries = entries
        } else if node.isNull {
            self.entries = []
        } else {
            throw .mismatch(
                node.location, key: path.isEmpty ? "the configuration" : path,
                expected: "a section of 'key: value' lines", found: node.summary, nearest: nil)
        }
    }

    // MARK: Presence

    /// Whether the key is set. A key that is set but never read afterwards is an error in `finish`.
    public func has(_ key: String) -> Bool {
        allow(key)
        return value(key) != nil
    }

    /// The node under a key, for values that may take several forms. Counts as reading it.
    public func node(_ key: String) -> ConfigurationNode? {
        consume(key)
        guard let node = value(key) else { return nil }
        record.append((key, .node(node)))
        return node
    }

    // MARK: Scalars

    /// An integer. Without `default`, a missing key is an error.
    public func int(
        _ key: String, default fallback: Int? = nil, in range: ClosedRange<Int>? = nil
    ) throws(ConfigurationError) -> Int {
        try required(key, fallback, expected: Self.expectedInt(range)) { node throws(ConfigurationError) in
            try self.int(node, path(to: key), range)
        }
    }

    /// An integer, or nil when the key is absent.
    public func optionalInt(
        _ key: String, in range: ClosedRange<Int>? = nil
    ) throws(ConfigurationError) -> Int? {
        try optional(key) { node throws(ConfigurationError) in try self.int(node, path(to: key), range) }
    }

    /// An integer, or nil for `auto`, which is the default.
    public func intOrAuto(
        _ key: String, in range: ClosedRange<Int>? = nil
    ) throws(ConfigurationError) -> Int? {
        consume(key)
        guard let node = value(key) else {
            remember(key, "auto")
            return nil
        }
        if case .scalar("auto", _) = node.content {
            remember(key, "auto")
            return nil
        }
        let number = try int(node, path(to: key), range, also: "'auto' or ")
        remember(key, number)
        return number
    }

    /// A finite number.
    /// - Parameters:
    ///   - range: inclusive bounds.
    ///   - above: exclusive lower bound.
    ///   - below: exclusive upper bound.
    public func double(
        _ key: String, default fallback: Double? = nil, in range: ClosedRange<Double>? = nil,
        above: Double? = nil, below: Double? = nil
    ) throws(ConfigurationError) -> Double {
        let bounds = Bounds(range: range, above: above, below: below)
        return try required(key, fallback, expected: bounds.expected) { node throws(ConfigurationError) in
            try self.double(node, path(to: key), bounds)
        }
    }

    /// A finite number, or nil when the key is absent.
    public func optionalDouble(
        _ key: String, in range: ClosedRange<Double>? = nil, above: Double? = nil, below: Double? = nil
    ) throws(ConfigurationError) -> Double? {
        let bounds = Bounds(range: range, above: above, below: below)
        return try optional(key) { node throws(ConfigurationError) in
            try self.double(node, path(to: key), bounds)
        }
    }

    /// `true` or `false`, in lower case.
    public func bool(_ key: String, default fallback: Bool? = nil) throws(ConfigurationError) -> Bool {
        try required(key, fallback, expected: "true or false") { node throws(ConfigurationError) in
            switch node.content {
            case .scalar("true", quoted: false): return true
            case .scalar("false", quoted: false): return false
            default: throw self.mismatch(node, self.path(to: key), "true or false")
            }
        }
    }

    public func string(_ key: String, default fallback: String? = nil) throws(ConfigurationError) -> String {
        try required(key, fallback, expected: "a string") { node throws(ConfigurationError) in
            try self.string(node, path(to: key))
        }
    }

    /// A string, or nil when the key is absent.
    public func optionalString(_ key: String) throws(ConfigurationError) -> String? {
        try optional(key) { node throws(ConfigurationError) in try self.string(node, path(to: key)) }
    }

    /// One of a fixed set of words.
    public func choice(
        _ key: String, of words: [String], default fallback: String? = nil
    ) throws(ConfigurationError) -> String {
        let expected = "one of \(words.joined(separator: ", "))"
        return try required(key, fallback, expected: expected) { node throws(ConfigurationError) in
            guard case .scalar(let text, _) = node.content, words.contains(text) else {
                var nearest: String?
                if case .scalar(let text, _) = node.content { nearest = NearestName.of(text, in: words) }
                throw .mismatch(
                    node.location, key: self.path(to: key), expected: expected, found: node.summary, nearest: nearest)
            }
            return text
        }
    }

    /// One of the cases of an enumeration of strings.
    public func choice<Choice: RawRepresentable & CaseIterable>(
        _ key: String, as type: Choice.Type = Choice.self, default fallback: Choice? = nil
    ) throws(ConfigurationError) -> Choice where Choice.RawValue == String {
        let word = try choice(key, of: Choice.allCases.map(\.rawValue), default: fallback?.rawValue)
        return Choice(rawValue: word)!
    }

    // MARK: Lists

    /// A list of integers. `count` fixes the length.
    public func intList(
        _ key: String, default fallback: [Int]? = nil, in range: ClosedRange<Int>? = nil, count: Int? = nil
    ) throws(ConfigurationError) -> [Int] {
        try list(key, fallback, of: "integers", count, single: false) { node, path throws(ConfigurationError) in
            try self.int(node, path, range)
        }
    }

    /// A list of finite numbers. `count` fixes the length.
    public func doubleList(
        _ key: String, default fallback: [Double]? = nil, in range: ClosedRange<Double>? = nil, count: Int? = nil
    ) throws(ConfigurationError) -> [Double] {
        let bounds = Bounds(range: range, above: nil, below: nil)
        return try list(key, fallback, of: "numbers", count, single: false) { node, path throws(ConfigurationError) in
            try self.double(node, path, bounds)
        }
    }

    /// A list of strings; a single string reads as a list of one.
    public func stringList(
        _ key: String, default fallback: [String]? = nil
    ) throws(ConfigurationError) -> [String] {
        try list(key, fallback, of: "strings", nil, single: true) { node, path throws(ConfigurationError) in
            try self.string(node, path)
        }
    }

    // MARK: Sections

    /// The section under a key; an empty one when it is absent and not `required`. Finishing this reader
    /// finishes the section too. Asked again, it is the same reader.
    public func section(_ key: String, required: Bool = false) throws(ConfigurationError) -> ConfigurationReader {
        for case (key, .section(let reader)) in record { return reader }
        consume(key)
        if required, value(key) == nil { throw missing(key, expected: "a section") }
        let node = value(key) ?? ConfigurationNode(.mapping([]), at: location)
        let reader = try ConfigurationReader(node, path: path(to: key))
        children.append(reader)
        record.append((key, .section(reader)))
        return reader
    }

    /// A list of sections, such as the layers of a model. Empty when the key is absent and not `required`. Asked again, it
    /// is the same readers.
    public func sections(_ key: String, required: Bool = false) throws(ConfigurationError) -> [ConfigurationReader] {
        for case (key, .sections(let readers)) in record { return readers }
        consume(key)
        guard let node = value(key) else {
            if required { throw missing(key, expected: "a list of sections") }
            return []
        }
        guard case .sequence(let elements) = node.content else {
            throw mismatch(node, path(to: key), "a list of sections ('- key: value')")
        }
        var readers: [ConfigurationReader] = []
        for (index, element) in elements.enumerated() {
            readers.append(try ConfigurationReader(element, path: "\(path(to: key))[\(index)]"))
        }
        children += readers
        record.append((key, .sections(readers)))
        return readers
    }

    // MARK: End of reading

    /// Checks that every key of this section, and of all sections handed out by it, was read.
    /// - Throws: `.unknownKey` for a key nobody asked for, `.unusedKey` for one only asked about.
    public func finish() throws(ConfigurationError) {
        for entry in entries where !consumed.contains(entry.key) {
            if allowed.contains(entry.key) {
                if entry.value.isNull { continue }
                throw .unusedKey(entry.keyLocation, key: entry.key, path: path)
            }
            throw .unknownKey(
                entry.keyLocation, key: entry.key, path: path,
                nearest: NearestName.of(entry.key, in: allowed), allowed: allowed)
        }
        for child in children { try child.finish() }
    }

    /// An error about the meaning of a value, pointing at its line, or at the section if the key is absent.
    public func error(_ key: String, _ message: String) -> ConfigurationError {
        .invalid(value(key)?.location ?? location, key: path(to: key), message: message)
    }

    /// Everything read from this section so far, with the defaults that were used, in the order of reading.
    public var resolved: ConfigurationNode {
        var seen: Set<String> = []
        var result: [ConfigurationNode.Entry] = []
        for (key, value) in record where seen.insert(key).inserted {
            let node: ConfigurationNode
            switch value {
            case .node(let written): node = written
            case .section(let reader): node = reader.resolved
            case .sections(let readers): node = ConfigurationNode(.sequence(readers.map(\.resolved)), at: location)
            }
            // Sections that were neither written nor contain defaults say nothing.
            if case .mapping(let inner) = node.content, inner.isEmpty { continue }
            result.append(.init(key: key, keyLocation: location, value: node))
        }
        return ConfigurationNode(.mapping(result), at: location)
    }

    // MARK: Private

    private func path(to key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

    private func value(_ key: String) -> ConfigurationNode? {
        guard let node = entries.first(where: { $0.key == key })?.value, !node.isNull else { return nil }
        return node
    }

    private func allow(_ key: String) {
        if !allowed.contains(key) { allowed.append(key) }
    }

    private func consume(_ key: String) {
        allow(key)
        consumed.insert(key)
    }

    private func remember(_ key: String, _ value: Any) {
        record.append((key, .node(node(of: value))))
    }

    private func node(of value: Any) -> ConfigurationNode {
        switch value {
        case let list as [Any]: ConfigurationNode(.sequence(list.map(node(of:))), at: location)
        case let text as String: ConfigurationNode(.scalar(text, quoted: true), at: location)
        default: ConfigurationNode(.scalar("\(value)", quoted: false), at: location)
        }
    }

    private func missing(_ key: String, expected: String) -> ConfigurationError {
        .missingKey(location, key: key, path: path, expected: expected)
    }

    private func mismatch(_ node: ConfigurationNode, _ path: String, _ expected: String) -> ConfigurationError {
        .mismatch(node.location, key: path, expected: expected, found: node.summary, nearest: nil)
    }

    private func required<Value>(
        _ key: String, _ fallback: Value?, expected: String,
        _ parse: (ConfigurationNode) throws(ConfigurationError) -> Value
    ) throws(ConfigurationError) -> Value {
        consume(key)
        let result: Value
        if let node = value(key) {
            result = try parse(node)
        } else if let fallback {
            result = fallback
        } else {
            throw missing(key, expected: expected)
        }
        remember(key, result)
        return result
    }

    private func optional<Value>(
        _ key: String, _ parse: (ConfigurationNode) throws(ConfigurationError) -> Value
    ) throws(ConfigurationError) -> Value? {
        consume(key)
        guard let node = value(key) else { return nil }
        let result = try parse(node)
        remember(key, result)
        return result
    }

    private func list<Value>(
        _ key: String, _ fallback: [Value]?, of what: String, _ count: Int?, single: Bool,
        _ parse: (ConfigurationNode, String) throws(ConfigurationError) -> Value
    ) throws(ConfigurationError) -> [Value] {
        let expected = "a list of \(count.map { "\($0) " } ?? "")\(what)"
        return try required(key, fallback, expected: expected) { node throws(ConfigurationError) in
            var elements: [ConfigurationNode]
            switch node.content {
            case .sequence(let nodes): elements = nodes
            case .scalar where single: elements = [node]
            default: throw self.mismatch(node, self.path(to: key), expected)
            }
            if let count, elements.count != count { throw self.mismatch(node, self.path(to: key), expected) }
            var values: [Value] = []
            for (index, element) in elements.enumerated() {
                values.append(try parse(element, "\(self.path(to: key))[\(index)]"))
            }
            return values
        }
    }

    private func string(_ node: ConfigurationNode, _ path: String) throws(ConfigurationError) -> String {
        guard case .scalar(let text, _) = node.content, !node.isNull else { throw mismatch(node, path, "a string") }
        return text
    }

    /// Digits may be grouped by underscores, as in `1_000_000`.
    private func int(
        _ node: ConfigurationNode, _ path: String, _ range: ClosedRange<Int>?, also: String = ""
    ) throws(ConfigurationError) -> Int {
        guard case .scalar(let text, quoted: false) = node.content,
            let value = Int(Self.ungrouped(text)), range?.contains(value) ?? true
        else { throw mismatch(node, path, also + Self.expectedInt(range)) }
        return value
    }

    private func double(_ node: ConfigurationNode, _ path: String, _ bounds: Bounds) throws(ConfigurationError)
        -> Double
    {
        guard case .scalar(let text, quoted: false) = node.content,
            let value = Double(Self.ungrouped(text)), bounds.contains(value)
        else { throw mismatch(node, path, bounds.expected) }
        return value
    }

    private static func ungrouped(_ text: String) -> String {
        guard let first = text.first, first.isNumber || "+-.".contains(first) else { return "" }
        return text.replacing("_", with: "")
    }

    private static func expectedInt(_ range: ClosedRange<Int>?) -> String {
        guard let range else { return "an integer" }
        if range.upperBound == .max { return "an integer of at least \(range.lowerBound)" }
        if range.lowerBound == .min { return "an integer of at most \(range.upperBound)" }
        return "an integer from \(range.lowerBound) to \(range.upperBound)"
    }

    private struct Bounds {
        var range: ClosedRange<Double>?
        var above: Double?
        var below: Double?

        func contains(_ value: Double) -> Bool {
            value.isFinite && range?.contains(value) ?? true && above.map { value > $0 } ?? true
                && below.map { value < $0 } ?? true
        }

        var expected: String {
            var limits: [String] = []
            if let range {
                if range.lowerBound > -.greatestFiniteMagnitude { limits.append("at least \(range.lowerBound)") }
                if range.upperBound < .greatestFiniteMagnitude { limits.append("at most \(range.upperBound)") }
            }
            if let above { limits.append("greater than \(above)") }
            if let below { limits.append("less than \(below)") }
            return limits.isEmpty ? "a number" : "a number \(limits.joined(separator: " and "))"
        }
    }
}
