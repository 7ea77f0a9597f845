import Glibc

/// A file mapped into memory for reading: pages load when touched, and ranks on one node share them.
public final class MappedFile: @unchecked Sendable {
    public let path: String
    /// Valid only while this object lives: for owners that keep it. Passing use goes through `withBytes`,
    /// because a local reference may be released right after the last mention of it.
    let bytes: UnsafeRawBufferPointer

    public init(_ path: String) throws(FileError) {
        self.path = path
        let (descriptor, size) = try FileSystem.openForReading(path)
        defer { close(descriptor) }
        guard size > 0 else {
            bytes = UnsafeRawBufferPointer(start: nil, count: 0)
            return
        }
        guard let address = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0), address != MAP_FAILED else {
            throw .system(operation: "map into memory", path: path, code: errno)
        }
        bytes = UnsafeRawBufferPointer(start: address, count: size)
    }

    /// Calls `body` with the contents of the file.
    public func withBytes<Result, Failure>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        defer { withExtendedLifetime(self) {} }
        return try body(bytes)
    }

    deinit {
        if let address = bytes.baseAddress { munmap(UnsafeMutableRawPointer(mutating: address), bytes.count) }
    }
}
