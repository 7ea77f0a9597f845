import Glibc

/// A directory that appears under its name complete or not at all.
///
/// Files are written into `NAME.partial-TOKEN` beside the destination, by any number of ranks; `commit`
/// makes them durable and renames the directory. A crash leaves only a `.partial-` directory, which
/// `removeLeftovers` clears away. Not collective: exactly one rank creates and commits, after the others
/// have closed their files in `path`.
public final class AtomicDirectory {
    public let destination: String
    /// Where to write files before `commit`.
    public let path: String
    private var isOpen = true
    private static let replacedSuffix = ".partial-replaced"

    /// Creates the partial directory, and the missing ones above it.
    /// - Parameter token: makes the partial name unique among writers; the process id unless given.
    public init(_ destination: String, token: String? = nil) throws(FileError) {
        self.destination = destination
        path = "\(destination).partial-\(token ?? String(getpid()))"
        try FileSystem.remove(path)
        try FileSystem.createDirectory(path)
    }

    deinit {
        if isOpen { try? FileSystem.remove(path) }
    }

    /// Flushes every file and renames the directory to its destination, replacing what was there.
    public func commit() throws(FileError) {
        for name in try FileSystem.list(path) { try Self.flush("\(path)/\(name)") }
        try FileSystem.synchronizeDirectory(path)
        let replaced = destination + Self.replacedSuffix
        let replaces = FileSystem.exists(destination)
        if replaces {
            try FileSystem.remove(replaced)
            try FileSystem.rename(destination, to: replaced)
        }
        do throws(FileError) {
            try FileSystem.rename(path, to: destination)
        } catch {
            if replaces { try? FileSystem.rename(replaced, to: destination) }
            throw error
        }
        isOpen = false
        try FileSystem.synchronizeDirectory(FileSystem.parent(of: destination))
        if replaces { try FileSystem.remove(replaced) }
    }

    /// Removes the partial directory; the destination stays as it was.
    public func discard() throws(FileError) {
        isOpen = false
        try FileSystem.remove(path)
    }

    /// Removes what interrupted writers left in `directory`. Call only while nobody writes there.
    /// - Returns: the names removed, sorted.
    @discardableResult
    public static func removeLeftovers(in directory: String) throws(FileError) -> [String] {
        guard FileSystem.isDirectory(directory) else { return [] }
        let leftovers = try FileSystem.list(directory).filter { $0.contains(".partial-") }
        for name in leftovers {
            let path = "\(directory)/\(name)"
            if name.hasSuffix(replacedSuffix) {
                // A crash between the two renames of `commit`: the old contents are the only complete ones.
                let original = String(path.dropLast(replacedSuffix.count))
                if !FileSystem.exists(original) {
                    try FileSystem.rename(path, to: original)
                    continue
                }
            }
            try FileSystem.remove(path)
        }
        return leftovers
    }

    private static func flush(_ path: String) throws(FileError) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(operation: "open", path: path, code: errno) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 || errno == EINVAL || errno == EROFS else {
            throw .system(operation: "flush", path: path, code: errno)
        }
    }
}

/// `manifest.json`: size and CRC-32C of every file in a directory, checked before any of them is used.
public struct ChecksumManifest: Sendable, Equatable {
    public struct Entry: Sendable, Equatable {
        public var name: String
        public var byteCount: Int
        public var checksum: String

        public init(name: String, byteCount: Int, checksum: String) {
            self.name = name
            self.byteCount = byteCount
            self.checksum = checksum
        }
    }

    public static let fileName = "manifest.json"
    public var entries: [Entry]

    public init(entries: [Entry]) {
        self.entries = entries
    }

    /// Reads every file of `directory` to make a manifest of it, in the order of their names.
    public init(ofFilesIn directory: String) throws(FileError) {
        entries = []
        for name in try FileSystem.list(directory) where name != Self.fileName {
            let (byteCount, checksum) = try Self.measure("\(directory)/\(name)")
            entries.append(Entry(name: name, byteCount: byteCount, checksum: checksum.description))
        }
    }

    /// Reads the manifest of a directory.
    public init(readingFrom directory: String) throws(FileError) {
        let path = "\(directory)/\(Self.fileName)"
        let json: JSON
        do {
            json = try JSON(parsing: FileSystem.read(path))
        } catch let error as JSON.SyntaxError {
            throw .malformed(path: path, error.description)
        } catch let error as FileError {
            throw error
        } catch {
            fatalError("\(path): unexpected error \(error)")
        }
        guard let files = json["files"]?.array else { throw .malformed(path: path, "has no list 'files'") }
        entries = []
        for file in files {
            guard let name = file["name"]?.string, let bytes = file["bytes"]?.int,
                let checksum = file["crc32c"]?.string,
                !name.contains("/")
            else { throw .malformed(path: path, "a file needs 'name', 'bytes' and 'crc32c'") }
            entries.append(Entry(name: name, byteCount: bytes, checksum: checksum))
        }
    }

    public func write(to directory: String) throws(FileError) {
        let files = entries.map { entry in
            JSON.object([
                .init("name", .string(entry.name)), .init("bytes", .int(entry.byteCount)),
                .init("crc32c", .string(entry.checksum)),
            ])
        }
        let text = JSON.object([.init("files", .array(files))]).indentedText
        try FileSystem.write(Array(text.utf8), to: "\(directory)/\(Self.fileName)")
    }

    /// Checks size and checksum of every file listed.
    public func verify(in directory: String) throws(FileError) {
        for entry in entries {
            let path = "\(directory)/\(entry.name)"
            let (byteCount, checksum) = try Self.measure(path)
            guard byteCount >= entry.byteCount else {
                throw .truncated(path: path, expectedBytes: entry.byteCount, actualBytes: byteCount)
            }
            guard checksum.description == entry.checksum, byteCount == entry.byteCount else {
                throw .checksumMismatch(path: path, expected: entry.checksum, actual: checksum.description)
            }
        }
    }

    private static func measure(_ path: String) throws(FileError) -> (byteCount: Int, checksum: Checksum) {
        try MappedFile(path).withBytes { bytes in
            var checksum = Checksum()
            checksum.update(bytes)
            return (bytes.count, checksum)
        }
    }
}
