/// A long, immutable sequence of tokens, in memory or in a mapped file, stored as narrowly as it came.
public final class TokenSequence: @unchecked Sendable {
    enum Element {
        case uint8, uint16, int32, uint32, int64

        var byteCount: Int {
            switch self {
            case .uint8: 1
            case .uint16: 2
            case .int32, .uint32: 4
            case .int64: 8
            }
        }
    }

    public let count: Int
    private let element: Element
    private let base: UnsafeRawPointer
    /// Keeps the memory behind `base` alive.
    private let owner: AnyObject

    private final class Memory {
        let bytes: UnsafeMutableRawBufferPointer

        init<Token>(copying tokens: [Token]) {
            bytes = .allocate(byteCount: max(tokens.count * MemoryLayout<Token>.stride, 8), alignment: 8)
            tokens.withUnsafeBytes { bytes.copyMemory(from: $0) }
        }

        deinit { bytes.deallocate() }
    }

    private init(count: Int, element: Element, base: UnsafeRawPointer, owner: AnyObject) {
        self.count = count
        self.element = element
        self.base = base
        self.owner = owner
    }

    private convenience init(_ memory: Memory, _ count: Int, _ element: Element) {
        self.init(count: count, element: element, base: UnsafeRawPointer(memory.bytes.baseAddress!), owner: memory)
    }

    public convenience init(_ tokens: [UInt8]) { self.init(Memory(copying: tokens), tokens.count, .uint8) }
    public convenience init(_ tokens: [UInt16]) { self.init(Memory(copying: tokens), tokens.count, .uint16) }
    public convenience init(_ tokens: [Int32]) { self.init(Memory(copying: tokens), tokens.count, .int32) }

    /// Tokens of at most `vocabularySize` symbols, as uint16 where they fit.
    convenience init(_ tokens: [Int32], vocabularySize: Int) {
        if vocabularySize <= 1 << 16 {
            self.init(tokens.map { UInt16(truncatingIfNeeded: $0) })
        } else {
            self.init(tokens)
        }
    }

    /// The bytes of a file, mapped.
    convenience init(bytesOf file: MappedFile) {
        self.init(file, offset: 0, count: file.bytes.count, .uint8)
    }

    convenience init(_ file: MappedFile, offset: Int, count: Int, _ element: Element) {
        if count == 0 {
            self.init([UInt8]())
        } else {
            self.init(count: count, element: element, base: file.bytes.baseAddress! + offset, owner: file)
        }
    }

    /// A part of the sequence, sharing its memory.
    func slice(_ range: Range<Int>) -> TokenSequence {
        TokenSequence(
            count: range.count, element: element, base: base + range.lowerBound * element.byteCount, owner: owner)
    }

    public subscript(index: Int) -> Int32 {
        var token: Int32 = 0
        copy(index..<index + 1, to: &token)
        return token
    }

    /// Writes the tokens of `range` to `destination`.
    public func copy(_ range: Range<Int>, to destination: UnsafeMutablePointer<Int32>) {
        guard range.lowerBound >= 0, range.upperBound <= count else {
            fatalError("TokenSequence: range \(range); expected within 0..<\(count)")
        }
        switch element {
        case .uint8: load(UInt8.self, range, destination)
        case .uint16: load(UInt16.self, range, destination)
        case .int32: load(Int32.self, range, destination)
        case .uint32: load(UInt32.self, range, destination)
        case .int64: load(Int64.self, range, destination)
        }
    }

    /// The first token outside `0..<size`, and where it is.
    func firstToken(outside size: Int) -> (token: Int, position: Int)? {
        func search<Token: FixedWidthInteger>(_: Token.Type) -> (Int, Int)? {
            for i in 0..<count {
                let token = Int(base.loadUnaligned(fromByteOffset: i * MemoryLayout<Token>.size, as: Token.self))
                if token < 0 || token >= size { return (token, i) }
            }
            return nil
        }
        switch element {
        case .uint8: return search(UInt8.self)
        case .uint16: return search(UInt16.self)
        case .int32: return search(Int32.self)
        case .uint32: return search(UInt32.self)
        case .int64: return search(Int64.self)
        }
    }

    /// The largest token, -1 for none.
    func maximum() -> Int {
        func search<Token: FixedWidthInteger>(_: Token.Type) -> Int {
            var largest = -1
            for i in 0..<count {
                largest = max(
                    largest, Int(base.loadUnaligned(fromByteOffset: i * MemoryLayout<Token>.size, as: Token.self)))
            }
            return largest
        }
        switch element {
        case .uint8: return search(UInt8.self)
        case .uint16: return search(UInt16.self)
        case .int32: return search(Int32.self)
        case .uint32: return search(UInt32.self)
        case .int64: return search(Int64.self)
        }
    }

    private func load<Token: FixedWidthInteger>(
        _: Token.Type, _ range: Range<Int>, _ destination: UnsafeMutablePointer<Int32>
    ) {
        let size = MemoryLayout<Token>.size
        for i in 0..<range.count {
            let token = base.loadUnaligned(fromByteOffset: (range.lowerBound + i) * size, as: Token.self)
            destination[i] = Int32(truncatingIfNeeded: token)
        }
    }
}

extension TokenSequence {
    /// A token file, mapped: `.bin` (uint16) or `.npy` (one dimension of integers).
    convenience init(tokenFile path: String) throws(DataError) {
        let file: MappedFile
        do { file = try MappedFile(path) } catch { throw .file(error) }
        if path.hasSuffix(".bin") {
            guard file.bytes.count % 2 == 0 else {
                throw .badFormat(path: path, "has an odd number of bytes, \(file.bytes.count); expected uint16 tokens")
            }
            self.init(file, offset: 0, count: file.bytes.count / 2, .uint16)
        } else if path.hasSuffix(".npy") {
            let (element, offset, count) = try Self.numpyHeader(file)
            let needed = offset + count * element.byteCount
            guard file.bytes.count >= needed else {
                throw .file(.truncated(path: path, expectedBytes: needed, actualBytes: file.bytes.count))
            }
            self.init(file, offset: offset, count: count, element)
        } else {
            throw .badFormat(path: path, "is not a token file; expected a name ending in .bin (uint16) or .npy")
        }
    }

    /// Element type, data offset and length from the header of a `.npy` file, versions 1 to 3.
    /// Source: numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
    private static func numpyHeader(_ file: MappedFile) throws(DataError) -> (Element, offset: Int, count: Int) {
        let bytes = file.bytes
        guard bytes.count >= 12, bytes.prefix(6).elementsEqual([0x93] + Array("NUMPY".utf8)) else {
            throw .badFormat(path: file.path, "does not start as a .npy file does")
        }
        let long = bytes[6] >= 2
        let length =
            long
            ? Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self)))
            : Int(UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt16.self)))
        let start = long ? 12 : 10
        guard bytes.count >= start + length else {
            throw .file(.truncated(path: file.path, expectedBytes: start + length, actualBytes: bytes.count))
        }
        let header = String(decoding: bytes[start..<start + length], as: UTF8.self)
        let types: [String: Element] = [
            "|u1": .uint8, "<u2": .uint16, "<i4": .int32, "<u4": .uint32, "<i8": .int64,
        ]
        // The header is a Python literal written by NumPy in one fixed style.
        guard let match = header.firstMatch(of: #/'descr': *'([^']*)'/#), let element = types[String(match.1)] else {
            throw .badFormat(
                path: file.path, "holds \(header); expected uint8, uint16, int32, uint32 or int64, little-endian")
        }
        guard let shape = header.firstMatch(of: #/'shape': *\((\d+),\)/#), let count = Int(shape.1) else {
            throw .badFormat(path: file.path, "holds \(header); expected one dimension")
        }
        return (element, start + length, count)
    }
}
