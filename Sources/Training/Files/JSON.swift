/// A JSON value. Objects keep the order of their keys, so that equal values have equal text.
public enum JSON: Sendable, Equatable {
    case null
    case bool(Bool)
    case int(Int)
    case double(Double)
    case string(String)
    case array([JSON])
    case object([Member])

    public struct Member: Sendable, Equatable {
        public var key: String
        public var value: JSON

        public init(_ key: String, _ value: JSON) {
            self.key = key
            self.value = value
        }
    }

    /// What is wrong with a text, and at which byte.
    public struct SyntaxError: Error, Sendable, CustomStringConvertible {
        public var offset: Int
        public var message: String
        public var description: String { "invalid JSON at byte \(offset): \(message)" }
    }

    public subscript(key: String) -> JSON? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.key == key }?.value
    }

    public var string: String? {
        if case .string(let text) = self { text } else { nil }
    }

    public var int: Int? {
        if case .int(let value) = self { value } else { nil }
    }

    public var array: [JSON]? {
        if case .array(let elements) = self { elements } else { nil }
    }

    public var members: [Member]? {
        if case .object(let members) = self { members } else { nil }
    }

    /// Parses one value; keys of an object must differ.
    public init(parsing bytes: UnsafeRawBufferPointer) throws(SyntaxError) {
        var parser = Parser(bytes: bytes)
        self = try parser.document()
    }

    public init(parsing bytes: [UInt8]) throws(SyntaxError) {
        self = try bytes.withUnsafeBufferPointer { buffer throws(SyntaxError) in
            try JSON(parsing: UnsafeRawBufferPointer(buffer))
        }
    }

    /// Compact text without spaces. Non-finite numbers become null.
    public var text: String {
        var result = ""
        write(into: &result, indent: nil)
        return result
    }

    /// Text with one member or element a line, and a final newline.
    public var indentedText: String {
        var result = ""
        write(into: &result, indent: 0)
        return result + "\n"
    }

    private func write(into text: inout String, indent: Int?) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .int(let value): text += String(value)
        case .double(let value): text += value.isFinite ? "\(value)" : "null"
        case .string(let value): Self.write(value, into: &text)
        case .array(let elements):
            Self.writeList(elements, "[", "]", into: &text, indent: indent) { $0.write(into: &$1, indent: $2) }
        case .object(let members):
            Self.writeList(members, "{", "}", into: &text, indent: indent) { member, text, indent in
                Self.write(member.key, into: &text)
                text += indent == nil ? ":" : ": "
                member.value.write(into: &text, indent: indent)
            }
        }
    }

    private static func writeList<Element>(
        _ elements: [Element], _ open: String, _ close: String, into text: inout String, indent: Int?,
        _ write: (Element, inout String, Int?) -> Void
    ) {
        text += open
        for (index, element) in elements.enumerated() {
            if index > 0 { text += "," }
            if let indent { text += "\n" + String(repeating: " ", count: indent + 2) }
            write(element, &text, indent.map { $0 + 2 })
        }
        if let indent, !elements.isEmpty { text += "\n" + String(repeating: " ", count: indent) }
        text += close
    }

    private static func write(_ value: String, into text: inout String) {
        text += "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }
}

extension JSON {
    private struct Parser {
        let bytes: UnsafeRawBufferPointer
        var offset = 0

        init(bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

        func error(_ message: String) -> SyntaxError { SyntaxError(offset: offset, message: message) }

        mutating func document() throws(SyntaxError) -> JSON {
            let value = try value(depth: 0)
            skipSpace()
            guard offset == bytes.count else { throw error("something follows the value") }
            return value
        }

        mutating func skipSpace() {
            while offset < bytes.count, [0x20, 0x0A, 0x0D, 0x09].contains(bytes[offset]) { offset += 1 }
        }

        mutating func take(_ character: Unicode.Scalar) -> Bool {
            guard offset < bytes.count, bytes[offset] == UInt8(character.value) else { return false }
            offset += 1
            return true
        }

        mutating func value(depth: Int) throws(SyntaxError) -> JSON {
            guard depth < 256 else { throw error("nested more than 256 deep") }
            skipSpace()
            guard offset < bytes.count else { throw error("the text ends where a value should be") }
            switch bytes[offset] {
            case UInt8(ascii: "{"): return try object(depth: depth)
            case UInt8(ascii: "["): return try array(depth: depth)
            case UInt8(ascii: "\""): return .string(try string())
            case UInt8(ascii: "t"): return try word("true", .bool(true))
            case UInt8(ascii: "f"): return try word("false", .bool(false))
            case UInt8(ascii: "n"): return try word("null", .null)
            default: return try number()
            }
        }

        mutating func word(_ text: String, _ value: JSON) throws(SyntaxError) -> JSON {
            guard bytes.count - offset >= text.utf8.count,
                bytes[offset..<offset + text.utf8.count].elementsEqual(text.utf8)
            else { throw error("expected '\(text)'") }
            offset += text.utf8.count
            return value
        }

        mutating func array(depth: Int) throws(SyntaxError) -> JSON {
            offset += 1
            var elements: [JSON] = []
            skipSpace()
            if take("]") { return .array([]) }
            while true {
                elements.append(try value(depth: depth + 1))
                skipSpace()
                if take("]") { return .array(elements) }
                guard take(",") else { throw error("expected ',' or ']'") }
            }
        }

        mutating func object(depth: Int) throws(SyntaxError) -> JSON {
            offset += 1
            var members: [Member] = []
            var keys: Set<String> = []
            skipSpace()
            if take("}") { return .object([]) }
            while true {
                skipSpace()
                guard offset < bytes.count, bytes[offset] == UInt8(ascii: "\"") else {
                    throw error("expected a key in quotes")
                }
                let key = try string()
                guard keys.insert(key).inserted else { throw error("key '\(key)' appears twice") }
                skipSpace()
                guard take(":") else { throw error("expected ':'") }
                members.append(Member(key, try value(depth: depth + 1)))
                skipSpace()
                if take("}") { return .object(members) }
                guard take(",") else { throw error("expected ',' or '}'") }
            }
        }

        mutating func number() throws(SyntaxError) -> JSON {
            let start = offset
            while offset < bytes.count, "+-.0123456789eE".utf8.contains(bytes[offset]) { offset += 1 }
            let text = String(decoding: bytes[start..<offset], as: UTF8.self)
            if let value = Int(text), text.first != "+" { return .int(value) }
            guard let first = text.first, first == "-" || first.isNumber, let value = Double(text) else {
                offset = start
                throw error("expected a value")
            }
            return .double(value)
        }

        mutating func string() throws(SyntaxError) -> String {
            offset += 1
            var content: [UInt8] = []
            while true {
                let start = offset
                while offset < bytes.count, bytes[offset] >= 0x20, bytes[offset] != UInt8(ascii: "\""),
                    bytes[offset] != UInt8(ascii: "\\")
                { offset += 1 }
                content.append(contentsOf: bytes[start..<offset])
                guard offset < bytes.count else { throw error("a string does not end") }
                if take("\"") { break }
                guard take("\\") else { throw error("a control character inside a string") }
                guard offset < bytes.count else { throw error("a string does not end") }
                offset += 1
                switch bytes[offset - 1] {
                case UInt8(ascii: "n"): content.append(0x0A)
                case UInt8(ascii: "t"): content.append(0x09)
                case UInt8(ascii: "r"): content.append(0x0D)
                case UInt8(ascii: "b"): content.append(0x08)
                case UInt8(ascii: "f"): content.append(0x0C)
                case UInt8(ascii: "u"): content.append(contentsOf: String(Character(try escapedScalar())).utf8)
                case let other where "\"\\/".utf8.contains(other): content.append(other)
                default: throw error("unknown escape in a string")
                }
            }
            guard let text = String(validating: content, as: UTF8.self) else { throw error("a string is not UTF-8") }
            return text
        }

        /// After `\u`: a scalar, two escapes long when it lies beyond the basic plane.
        mutating func escapedScalar() throws(SyntaxError) -> Unicode.Scalar {
            let high = try codeUnit()
            var code = high
            if high & 0xFC00 == 0xD800, take("\\"), take("u") {
                let low = try codeUnit()
                guard low & 0xFC00 == 0xDC00 else { throw error("half of a surrogate pair is missing") }
                code = 0x10000 + (high & 0x3FF) << 10 + (low & 0x3FF)
            }
            guard let scalar = Unicode.Scalar(code) else { throw error("half of a surrogate pair is missing") }
            return scalar
        }

        mutating func codeUnit() throws(SyntaxError) -> UInt32 {
            guard offset + 4 <= bytes.count,
                let code = UInt32(String(decoding: bytes[offset..<offset + 4], as: UTF8.self), radix: 16)
            else { throw error("expected four hexadecimal digits after \\u") }
            offset += 4
            return code
        }
    }
}
