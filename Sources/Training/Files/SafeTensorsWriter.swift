/// Writes a safetensors file tensor by tensor, without holding them in memory. Tensors lie in the order
/// given, and nothing else enters the file: equal tensors give equal bytes.
public final class SafeTensorsWriter {
    public let path: String
    private let writer: FileWriter
    private let entries: [SafeTensorsEntry]
    private var written = 0

    /// Creates the file and writes its header.
    /// - Parameters:
    ///   - entries: all tensors, in the order in which they will be written.
    ///   - metadata: strings for `__metadata__`, in order; the section is absent when empty.
    public init(
        _ path: String, entries: [SafeTensorsEntry], metadata: [(key: String, value: String)] = []
    ) throws(FileError) {
        self.path = path
        self.entries = entries
        var members: [JSON.Member] = []
        if !metadata.isEmpty {
            members.append(.init("__metadata__", .object(metadata.map { .init($0.key, .string($0.value)) })))
        }
        var offset = 0
        for entry in entries {
            members.append(
                .init(
                    entry.name,
                    .object([
                        .init("dtype", .string(entry.element.rawValue)),
                        .init("shape", .array(entry.shape.map(JSON.int))),
                        .init("data_offsets", .array([.int(offset), .int(offset + entry.byteCount)])),
                    ])))
            offset += entry.byteCount
        }
        var header = Array(JSON.object(members).text.utf8)
        // The data starts at a multiple of eight bytes.
        header += [UInt8](repeating: UInt8(ascii: " "), count: (8 - header.count % 8) % 8)
        writer = try FileWriter(path)
        let length = UInt64(header.count)
        try writer.write((0..<8).map { UInt8(truncatingIfNeeded: length >> (8 * $0)) })
        try writer.write(header)
    }

    /// Writes the next tensor from `count` float32 values, row-major.
    public func write(_ name: String, _ values: UnsafePointer<Float>, count: Int) throws(FileError) {
        try write(name, .float32, UnsafeRawBufferPointer(start: values, count: count * 4))
    }

    public func write(_ name: String, _ values: [Float]) throws(FileError) {
        try values.withUnsafeBufferPointer { buffer throws(FileError) in
            try write(name, .float32, UnsafeRawBufferPointer(buffer))
        }
    }

    public func write(_ name: String, _ values: [Int64]) throws(FileError) {
        try values.withUnsafeBufferPointer { buffer throws(FileError) in
            try write(name, .int64, UnsafeRawBufferPointer(buffer))
        }
    }

    private func write(
        _ name: String, _ element: SafeTensorsElement, _ bytes: UnsafeRawBufferPointer
    ) throws(FileError) {
        guard written < entries.count, entries[written].name == name, entries[written].element == element,
            entries[written].byteCount == bytes.count
        else {
            let next = written < entries.count ? "\(entries[written])" : "no more tensors"
            fatalError("SafeTensorsWriter: got \(element.rawValue) '\(name)' of \(bytes.count) bytes; expected \(next)")
        }
        written += 1
        try writer.write(bytes)
    }

    /// Waits until the file is on the disk.
    /// - Returns: its line for the manifest.
    @discardableResult
    public func finish() throws(FileError) -> ChecksumManifest.Entry {
        guard written == entries.count else {
            fatalError("SafeTensorsWriter: \(written) of \(entries.count) tensors written to \(path) at finish")
        }
        try writer.close()
        return .init(
            name: FileSystem.name(of: path), byteCount: writer.count, checksum: writer.checksum.description)
    }
}
