import Foundation

/// Appends one JSON object per line to `metrics.jsonl`. After a resume the lines of steps that will
/// be run again are cut away, so that every step stands there once.
public final class MetricsLog {
    private let handle: FileHandle

    /// - Parameter lastStep: the step the run continues from; later lines are dropped.
    public init(path: String, lastStep: Int) throws {
        var kept = Data()
        if let old = FileManager.default.contents(atPath: path) {
            for line in old.split(separator: UInt8(ascii: "\n")) {
                // A line cut short by a crash does not parse, and goes.
                guard let object = try? JSONSerialization.jsonObject(with: Data(line)) as? [String: Any],
                    let step = object["step"] as? Int, step <= lastStep
                else { continue }
                kept.append(contentsOf: line)
                kept.append(UInt8(ascii: "\n"))
            }
        }
        try kept.write(to: URL(fileURLWithPath: path), options: .atomic)
        handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        try handle.seekToEnd()
    }

    /// Writes `fields` in the given order. Non-finite numbers become `null`, which JSON can hold.
    public func append(_ fields: [(String, JSONValue)]) throws {
        let body = fields.map { "\"\($0.0)\": \($0.1.text)" }.joined(separator: ", ")
        try handle.write(contentsOf: Data("{\(body)}\n".utf8))
    }

    deinit { try? handle.close() }
}

/// The few kinds of value that our JSON output needs, with a fixed textual form.
public enum JSONValue: Sendable {
    case int(Int)
    case double(Double)
    case string(String)
    case bool(Bool)
    case array([JSONValue])
    case object([(String, JSONValue)])

    public var text: String {
        switch self {
        case .int(let value): return String(value)
        case .double(let value): return value.isFinite ? "\(value)" : "null"
        case .bool(let value): return value ? "true" : "false"
        case .array(let values): return "[" + values.map(\.text).joined(separator: ", ") + "]"
        case .object(let fields):
            return "{" + fields.map { JSONValue.string($0.0).text + ": " + $0.1.text }.joined(separator: ", ") + "}"
        case .string(let value):
            var result = "\""
            for scalar in value.unicodeScalars {
                switch scalar {
                case "\"": result += "\\\""
                case "\\": result += "\\\\"
                case "\n": result += "\\n"
                case "\r": result += "\\r"
                case "\t": result += "\\t"
                case let s where s.value < 0x20:
                    let hex = String(s.value, radix: 16)
                    result += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
                default: result.unicodeScalars.append(scalar)
                }
            }
            return result + "\""
        }
    }
}
