import Foundation

/// The tensors of a safetensors file. Written from the format's description and kept apart from the
/// product's reader, so that a mistake there cannot hide itself:
/// 8 bytes little-endian header length, a JSON header, the tensors' bytes.
public struct StoredTensors: Sendable {
    public struct Entry: Sendable {
        public let shape: [Int]
        /// Every element as a Double; exact for float32, and for integers below 2^53.
        public let values: [Double]
    }

    public let entries: [String: Entry]

    /// Alphabetical.
    public var names: [String] { entries.keys.sorted() }

    public subscript(name: String) -> Entry? { entries[name] }

    /// - Throws: `StoredTensorsError`, or what Foundation says about an unreadable file.
    public init(path: String) throws {
        let data = try Data(contentsOf: URL(fileURLWithPath: path))
        func malformed(_ what: String) -> StoredTensorsError { StoredTensorsError(description: "\(path): \(what)") }

        guard data.count >= 8 else { throw malformed("shorter than its length field") }
        let length = data.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= UInt64(data.count - 8) else { throw malformed("shorter than its header") }
        let start = 8 + Int(length)
        guard let header = try JSONSerialization.jsonObject(with: data[8..<start]) as? [String: Any] else {
            throw malformed("the header is not an object")
        }
        var entries: [String: Entry] = [:]
        var byteCount = 0
        for (name, value) in header where name != "__metadata__" {
            guard let fields = value as? [String: Any], let type = fields["dtype"] as? String,
                let shape = fields["shape"] as? [Int], let offsets = fields["data_offsets"] as? [Int],
                offsets.count == 2, 0 <= offsets[0], offsets[0] <= offsets[1], offsets[1] <= data.count - start
            else { throw malformed("'\(name)' has a malformed header") }
            let bytes = data[(start + offsets[0])..<(start + offsets[1])]
            let values: [Double]
            switch type {
            case "F32": values = Self.elements(bytes, UInt32.self).map { Double(Float(bitPattern: $0)) }
            case "F64": values = Self.elements(bytes, UInt64.self).map { Double(bitPattern: $0) }
            case "I32": values = Self.elements(bytes, UInt32.self).map { Double(Int32(bitPattern: $0)) }
            case "I64": values = Self.elements(bytes, UInt64.self).map { Double(Int64(bitPattern: $0)) }
            default: throw malformed("'\(name)' has type \(type)")
            }
            guard values.count == shape.reduce(1, *) else {
                throw malformed("'\(name)' of shape \(shape) has \(values.count) elements")
            }
            entries[name] = Entry(shape: shape, values: values)
            byteCount += bytes.count
        }
        guard byteCount == data.count - start else {
            throw malformed("\(data.count - start) bytes of data, \(byteCount) in tensors")
        }
        self.entries = entries
    }

    private static func elements<Word: FixedWidthInteger>(_ bytes: Data, _: Word.Type) -> [Word] {
        bytes.withUnsafeBytes { raw in
            (0..<raw.count / MemoryLayout<Word>.size).map {
                Word(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Word>.size, as: Word.self))
            }
        }
    }
}

public struct StoredTensorsError: Error, CustomStringConvertible {
    public let description: String
}
