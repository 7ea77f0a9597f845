/// Element types of the safetensors format, named as in its header.
public enum SafeTensorsElement: String, Sendable, CaseIterable {
    case bool = "BOOL"
    case uint8 = "U8"
    case int8 = "I8"
    case uint16 = "U16"
    case int16 = "I16"
    case float16 = "F16"
    case bfloat16 = "BF16"
    case uint32 = "U32"
    case int32 = "I32"
    case float32 = "F32"
    case uint64 = "U64"
    case int64 = "I64"
    case float64 = "F64"

    public var byteCount: Int {
        switch self {
        case .bool, .uint8, .int8: 1
        case .uint16, .int16, .float16, .bfloat16: 2
        case .uint32, .int32, .float32: 4
        case .uint64, .int64, .float64: 8
        }
    }
}

/// Name, element type and shape of a tensor in a file. A scalar has the shape `[]`.
public struct SafeTensorsEntry: Sendable, Equatable {
    public var name: String
    public var element: SafeTensorsElement
    public var shape: [Int]

    public init(name: String, element: SafeTensorsElement = .float32, shape: [Int]) {
        self.name = name
        self.element = element
        self.shape = shape
    }

    public var elementCount: Int { shape.reduce(1, *) }
    public var byteCount: Int { elementCount * element.byteCount }
}

/// A safetensors file open for reading. The file is mapped and checked once; tensors load when asked for.
///
/// Format: an 8-byte little-endian header length, a JSON header `{"name": {"dtype", "shape",
/// "data_offsets"}, ..., "__metadata__": {...}}`, then the data without gaps.
/// Source: github.com/huggingface/safetensors, README and `tensor.rs` (whose checks are repeated here).
public final class SafeTensorsFile: Sendable {
    public let path: String
    /// Tensors in the order of their data.
    public let entries: [SafeTensorsEntry]
    /// The strings under `__metadata__`.
    public let metadata: [String: String]
    private let file: MappedFile
    private let offsets: [Int]
    private let indices: [String: Int]

    /// The reference library refuses longer headers, so that a damaged length cannot claim all memory.
    static let maximumHeaderBytes = 100_000_000

    public init(_ path: String) throws(FileError) {
        self.path = path
        file = try MappedFile(path)
        let bytes = file.bytes
        guard bytes.count >= 8 else { throw .truncated(path: path, expectedBytes: 8, actualBytes: bytes.count) }
        let length = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        guard length <= Self.maximumHeaderBytes else {
            throw .malformed(
                path: path,
                "claims a header of \(length) bytes, more than \(Self.maximumHeaderBytes); this is not a safetensors file"
            )
        }
        let dataStart = 8 + Int(length)
        guard bytes.count >= dataStart else {
            throw .truncated(path: path, expectedBytes: dataStart, actualBytes: bytes.count)
        }
        let header: JSON
        do {
            header = try JSON(parsing: UnsafeRawBufferPointer(rebasing: bytes[8..<dataStart]))
        } catch {
            throw .malformed(path: path, "header: \(error)")
        }
        guard let members = header.members else { throw .malformed(path: path, "the header is not a JSON object") }
        var found: [(entry: SafeTensorsEntry, start: Int, end: Int)] = []
        var metadata: [String: String] = [:]
        for member in members {
            if member.key == "__metadata__" {
                for item in member.value.members ?? [] { metadata[item.key] = item.value.string }
            } else {
                found.append(try Self.entry(member, path: path))
            }
        }
        found.sort { ($0.start, $0.end) < ($1.start, $1.end) }
        var end = 0
        for tensor in found {
            guard tensor.start == end else {
                let problem = tensor.start < end ? "overlaps the tensor before it" : "leaves a hole before it"
                throw .malformed(
                    path: path,
                    "tensor '\(tensor.entry.name)' starts at data byte \(tensor.start) and \(problem) (expected \(end))"
                )
            }
            end = tensor.end
        }
        guard bytes.count >= dataStart + end else {
            throw .truncated(path: path, expectedBytes: dataStart + end, actualBytes: bytes.count)
        }
        guard bytes.count == dataStart + end else {
            throw .malformed(path: path, "has \(bytes.count - dataStart - end) bytes after the last tensor")
        }
        self.metadata = metadata
        entries = found.map(\.entry)
        offsets = found.map { dataStart + $0.start }
        indices = Dictionary(uniqueKeysWithValues: found.enumerated().map { ($1.entry.name, $0) })
    }

    private static func entry(
        _ member: JSON.Member, path: String
    ) throws(FileError) -> (entry: SafeTensorsEntry, start: Int, end: Int) {
        func bad(_ message: String) -> FileError { .malformed(path: path, "tensor '\(member.key)': \(message)") }
        guard let type = member.value["dtype"]?.string else { throw bad("has no 'dtype'") }
        guard let element = SafeTensorsElement(rawValue: type) else {
            let known = SafeTensorsElement.allCases.map(\.rawValue).joined(separator: ", ")
            throw bad("dtype '\(type)' is not supported; known: \(known)")
        }
        let shape = member.value["shape"]?.array?.compactMap(\.int)
        guard let shape, shape.count == member.value["shape"]?.array?.count, shape.allSatisfy({ $0 >= 0 }) else {
            throw bad("'shape' must be a list of sizes")
        }
        let offsets = member.value["data_offsets"]?.array?.compactMap(\.int)
        guard let offsets, offsets.count == 2, offsets[0] >= 0, offsets[0] <= offsets[1] else {
            throw bad("'data_offsets' must be [begin, end]")
        }
        var byteCount = element.byteCount
        for size in shape {
            let (product, overflow) = byteCount.multipliedReportingOverflow(by: size)
            guard !overflow else { throw bad("the shape \(shape) is too large") }
            byteCount = product
        }
        guard byteCount == offsets[1] - offsets[0] else {
            throw bad("\(type) \(shape) needs \(byteCount) bytes, but its offsets span \(offsets[1] - offsets[0])")
        }
        return (SafeTensorsEntry(name: member.key, element: element, shape: shape), offsets[0], offsets[1])
    }

    public func entry(_ name: String) -> SafeTensorsEntry? {
        indices[name].map { entries[$0] }
    }

    /// The raw little-endian bytes of a tensor, valid while this object lives; not aligned.
    /// - Throws: `.malformed` if there is no such tensor.
    public func bytes(of name: String) throws(FileError) -> UnsafeRawBufferPointer {
        guard let index = indices[name] else {
            throw .malformed(path: path, "has no tensor '\(name)' among its \(entries.count)")
        }
        return UnsafeRawBufferPointer(rebasing: file.bytes[offsets[index]..<offsets[index] + entries[index].byteCount])
    }

    /// Reads a tensor into `destination` as float32. F16 and BF16 widen exactly; F64 rounds.
    /// - Parameters:
    ///   - count: must be the tensor's own number of elements.
    ///   - range: the elements to read, in flat order; all unless given.
    /// - Throws: `.malformed` for a missing tensor, another size, or integer elements.
    public func readFloats(
        _ name: String, into destination: UnsafeMutablePointer<Float>, count: Int, range: Range<Int>? = nil
    ) throws(FileError) {
        let all = try bytes(of: name)
        let entry = entries[indices[name]!]
        guard entry.elementCount == count else {
            throw .malformed(
                path: path,
                "tensor '\(name)' has shape \(entry.shape), \(entry.elementCount) elements; expected \(count)")
        }
        let range = range ?? 0..<count
        if range.isEmpty { return }
        let width = entry.element.byteCount
        let source = UnsafeRawBufferPointer(rebasing: all[range.lowerBound * width..<range.upperBound * width])
        switch entry.element {
        case .float32:
            UnsafeMutableRawPointer(destination).copyMemory(from: source.baseAddress!, byteCount: source.count)
        case .float16:
            for i in 0..<range.count {
                let bits = source.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)
                destination[i] = Self.widened(float16: bits)
            }
        case .bfloat16:
            for i in 0..<range.count {
                let bits = source.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)
                destination[i] = Float(bitPattern: UInt32(bits) << 16)
            }
        case .float64:
            for i in 0..<range.count {
                destination[i] = Float(source.loadUnaligned(fromByteOffset: 8 * i, as: Double.self))
            }
        default:
            throw .malformed(
                path: path, "tensor '\(name)' holds \(entry.element.rawValue); expected a floating-point type")
        }
    }

    /// A tensor as float32, row-major.
    public func floats(_ name: String) throws(FileError) -> [Float] {
        let count = entry(name)?.elementCount ?? 0
        var result = [Float](repeating: 0, count: count)
        try result.withUnsafeMutableBufferPointer { buffer throws(FileError) in
            // An empty array has an address too, though nothing may be stored there.
            try readFloats(name, into: buffer.baseAddress!, count: count)
        }
        return result
    }

    /// A tensor of any integer type (or BOOL) as 64-bit integers, row-major.
    public func integers(_ name: String) throws(FileError) -> [Int64] {
        let source = try bytes(of: name)
        let entry = entries[indices[name]!]
        func load<Element: FixedWidthInteger>(_: Element.Type) -> [Int64] {
            (0..<entry.elementCount).map { index in
                Int64(
                    truncatingIfNeeded: source.loadUnaligned(
                        fromByteOffset: index * MemoryLayout<Element>.size, as: Element.self))
            }
        }
        switch entry.element {
        case .bool, .uint8: return load(UInt8.self)
        case .int8: return load(Int8.self)
        case .uint16: return load(UInt16.self)
        case .int16: return load(Int16.self)
        case .uint32: return load(UInt32.self)
        case .int32: return load(Int32.self)
        case .int64: return load(Int64.self)
        case .uint64: return load(UInt64.self)
        case .float16, .bfloat16, .float32, .float64:
            throw .malformed(path: path, "tensor '\(name)' holds \(entry.element.rawValue); expected an integer type")
        }
    }

    /// IEEE half precision to single, by bits: x86-64 has no half-precision conversion at its baseline.
    static func widened(float16 bits: UInt16) -> Float {
        let sign = UInt32(bits & 0x8000) << 16
        let magnitude = UInt32(bits & 0x7FFF)
        if magnitude >= 0x7C00 { return Float(bitPattern: sign | 0x7F80_0000 | (magnitude & 0x3FF) << 13) }
        if magnitude >= 0x0400 { return Float(bitPattern: sign | magnitude << 13 &+ 112 << 23) }
        let subnormal = Float(magnitude) * 0x1p-24
        return sign == 0 ? subnormal : -subnormal
    }
}
