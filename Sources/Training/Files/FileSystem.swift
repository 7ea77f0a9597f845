import Glibc

/// The few file operations the trainer needs, with errors that name the file.
package enum FileSystem {
    package static func exists(_ path: String) -> Bool {
        access(path, F_OK) == 0
    }

    package static func isDirectory(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    /// The whole contents of a file.
    package static func read(_ path: String) throws(FileError) -> [UInt8] {
        let (descriptor, size) = try openForReading(path)
        defer { close(descriptor) }
        // Pipes and the like report no size; `read` decides when they end.
        var bytes = [UInt8](repeating: 0, count: max(size, 1 << 16))
        var filled = 0
        while true {
            let got = bytes.withUnsafeMutableBytes {
                Glibc.read(descriptor, $0.baseAddress! + filled, $0.count - filled)
            }
            if got < 0 {
                if errno == EINTR { continue }
                throw .system(operation: "read", path: path, code: errno)
            }
            if got == 0 { break }
            filled += got
            if filled == bytes.count { bytes.append(contentsOf: repeatElement(0, count: bytes.count)) }
        }
        bytes.removeLast(bytes.count - filled)
        return bytes
    }

    /// The contents of a file as UTF-8 text.
    package static func readText(_ path: String) throws(FileError) -> String {
        let bytes = try read(path)
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw .malformed(path: path, "is not UTF-8 text; convert it, or read it as bytes")
        }
        return text
    }

    /// Opens a regular file (or pipe) and returns its descriptor and size in bytes.
    package static func openForReading(_ path: String) throws(FileError) -> (descriptor: Int32, size: Int) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(operation: "open", path: path, code: errno) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            let code = errno
            close(descriptor)
            throw .system(operation: "examine", path: path, code: code)
        }
        if status.st_mode & S_IFMT == S_IFDIR {
            close(descriptor)
            throw .isDirectory(path: path)
        }
        return (descriptor, Int(status.st_size))
    }

    /// Writes a file and waits until it is on the disk. Not atomic: use `AtomicDirectory`, or `replace`.
    package static func write(_ bytes: [UInt8], to path: String) throws(FileError) {
        let writer = try FileWriter(path)
        try writer.write(bytes)
        try writer.close()
    }

    /// Writes a file beside `path`, then renames it there: readers see the old contents or the new ones.
    package static func replace(_ path: String, with bytes: [UInt8]) throws(FileError) {
        let temporary = "\(path).partial-\(getpid())"
        do throws(FileError) {
            try write(bytes, to: temporary)
            try rename(temporary, to: path)
        } catch {
            unlink(temporary)
            throw error
        }
        try synchronizeDirectory(parent(of: path))
    }

    package static func rename(_ source: String, to destination: String) throws(FileError) {
        guard Glibc.rename(source, destination) == 0 else {
            throw .system(operation: "rename to \(destination)", path: source, code: errno)
        }
    }

    /// Creates a directory and the missing ones above it.
    package static func createDirectory(_ path: String) throws(FileError) {
        if isDirectory(path) { return }
        let above = parent(of: path)
        if above != path { try createDirectory(above) }
        // Another rank may have been faster.
        guard mkdir(path, 0o777) == 0 || (errno == EEXIST && isDirectory(path)) else {
            throw .system(operation: "create the directory", path: path, code: errno)
        }
    }

    /// Makes renames and new names in a directory durable.
    package static func synchronizeDirectory(_ path: String) throws(FileError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(operation: "open", path: path, code: errno) }
        defer { close(descriptor) }
        // Some network file systems cannot flush a directory and say so; there is nothing more to do there.
        guard fsync(descriptor) == 0 || errno == EINVAL else {
            throw .system(operation: "flush", path: path, code: errno)
        }
    }

    /// The names in a directory, sorted, without `.` and `..`.
    package static func list(_ path: String) throws(FileError) -> [String] {
        guard let directory = opendir(path) else { throw .system(operation: "list", path: path, code: errno) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Removes a file, or a directory with everything in it. Links are removed, never followed.
    package static func remove(_ path: String) throws(FileError) {
        var status = stat()
        guard lstat(path, &status) == 0 else {
            if errno == ENOENT { return }
            throw .system(operation: "examine", path: path, code: errno)
        }
        if status.st_mode & S_IFMT == S_IFDIR {
            for name in try list(path) { try remove("\(path)/\(name)") }
            guard rmdir(path) == 0 || errno == ENOENT else {
                throw .system(operation: "remove", path: path, code: errno)
            }
        } else {
            guard unlink(path) == 0 || errno == ENOENT else {
                throw .system(operation: "remove", path: path, code: errno)
            }
        }
    }

    /// The directory that holds `path`.
    package static func parent(of path: String) -> String {
        let trimmed = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
        guard let slash = trimmed.lastIndex(of: "/") else { return "." }
        return slash == trimmed.startIndex ? "/" : String(trimmed[..<slash])
    }

    /// A path from a configuration file: where the file lies if it is there, else as it stands.
    package static func beside(_ directory: String, _ path: String) -> String {
        let beside = "\(directory)/\(path)"
        return !path.hasPrefix("/") && exists(beside) ? beside : path
    }

    /// The last component of `path`.
    package static func name(of path: String) -> String {
        path.split(separator: "/").last.map(String.init) ?? path
    }
}

/// Writes a file front to back through a buffer, keeping its checksum.
package final class FileWriter {
    package let path: String
    private var descriptor: Int32
    private var buffer: [UInt8] = []
    /// Bytes written so far.
    package private(set) var count = 0
    private var crc = Checksum()

    /// Creates the file, or empties it.
    package init(_ path: String) throws(FileError) {
        self.path = path
        descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw .system(operation: "create", path: path, code: errno) }
        buffer.reserveCapacity(1 << 16)
    }

    deinit {
        if descriptor >= 0 { Glibc.close(descriptor) }
    }

    /// Checksum of everything written so far.
    package var checksum: Checksum { crc }

    package func write(_ bytes: UnsafeRawBufferPointer) throws(FileError) {
        count += bytes.count
        crc.update(bytes)
        if buffer.count + bytes.count <= 1 << 16 {
            buffer.append(contentsOf: bytes)
            return
        }
        try flush()
        try put(bytes)
    }

    package func write(_ bytes: [UInt8]) throws(FileError) {
        try bytes.withUnsafeBufferPointer { buffer throws(FileError) in try write(UnsafeRawBufferPointer(buffer)) }
    }

    /// Waits until the contents are on the disk, then closes the file. A full disk may only show here.
    package func close() throws(FileError) {
        try flush()
        guard fsync(descriptor) == 0 || errno == EINVAL || errno == EROFS else {
            throw .system(operation: "flush", path: path, code: errno)
        }
        let result = Glibc.close(descriptor)
        descriptor = -1
        guard result == 0 else { throw .system(operation: "close", path: path, code: errno) }
    }

    private func flush() throws(FileError) {
        try buffer.withUnsafeBufferPointer { bytes throws(FileError) in try put(UnsafeRawBufferPointer(bytes)) }
        buffer.removeAll(keepingCapacity: true)
    }

    private func put(_ bytes: UnsafeRawBufferPointer) throws(FileError) {
        var done = 0
        while done < bytes.count {
            let written = Glibc.write(descriptor, bytes.baseAddress! + done, bytes.count - done)
            if written < 0 {
                if errno == EINTR { continue }
                throw .system(operation: "write", path: path, code: errno)
            }
            done += written
        }
    }
}
