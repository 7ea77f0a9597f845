/// The index of a model stored in several files (`model.safetensors.index.json`, Hugging Face's layout):
/// which shard holds which tensor.
public struct SafeTensorsIndex: Sendable, Equatable {
    /// Tensor names and file names, in the order of the index.
    public var shards: [(tensor: String, file: String)]
    /// Bytes of all tensors together, without headers.
    public var totalByteCount: Int

    public init(shards: [(tensor: String, file: String)], totalByteCount: Int) {
        self.shards = shards
        self.totalByteCount = totalByteCount
    }

    public static func == (a: Self, b: Self) -> Bool {
        a.totalByteCount == b.totalByteCount && a.shards.elementsEqual(b.shards) { $0 == $1 }
    }

    /// `model-00001-of-00004.safetensors` for shard 0 of 4.
    public static func fileName(prefix: String = "model", shard: Int, of count: Int) -> String {
        func padded(_ value: Int) -> String {
            let digits = String(value)
            return String(repeating: "0", count: max(0, 5 - digits.count)) + digits
        }
        return "\(prefix)-\(padded(shard + 1))-of-\(padded(count)).safetensors"
    }

    public init(readingFrom path: String) throws(FileError) {
        let bytes = try FileSystem.read(path)
        let json: JSON
        do { json = try JSON(parsing: bytes) } catch { throw .malformed(path: path, error.description) }
        guard let map = json["weight_map"]?.members else { throw .malformed(path: path, "has no section 'weight_map'") }
        shards = []
        for member in map {
            guard let file = member.value.string, !file.contains("/") else {
                throw .malformed(path: path, "tensor '\(member.key)' must name a file in the same directory")
            }
            shards.append((member.key, file))
        }
        totalByteCount = json["metadata"]?["total_size"]?.int ?? 0
    }

    public func write(to path: String) throws(FileError) {
        let json = JSON.object([
            .init("metadata", .object([.init("total_size", .int(totalByteCount))])),
            .init("weight_map", .object(shards.map { .init($0.tensor, .string($0.file)) })),
        ])
        try FileSystem.write(Array(json.indentedText.utf8), to: path)
    }
}

/// The tensors of a model wherever they lie: one file, a directory with `PREFIX.safetensors`, or a
/// directory (or index file) with shards. Shards open when first needed.
public final class SafeTensorsCollection {
    public let path: String
    /// All tensor names, in the order of the index or of the data.
    public let names: [String]
    private let files: [String: String]
    private var open: [String: SafeTensorsFile] = [:]

    /// - Parameter prefix: the file name before `.safetensors` in a directory.
    public init(_ path: String, prefix: String = "model") throws(FileError) {
        self.path = path
        var indexPath: String?
        var single = path
        if FileSystem.isDirectory(path) {
            let index = "\(path)/\(prefix).safetensors.index.json"
            if FileSystem.exists(index) { indexPath = index }
            single = "\(path)/\(prefix).safetensors"
        } else if path.hasSuffix(".index.json") {
            indexPath = path
        }
        if let indexPath {
            let index = try SafeTensorsIndex(readingFrom: indexPath)
            let directory = FileSystem.parent(of: indexPath)
            names = index.shards.map(\.tensor)
            files = Dictionary(uniqueKeysWithValues: index.shards.map { ($0.tensor, "\(directory)/\($0.file)") })
        } else {
            let file = try SafeTensorsFile(single)
            open[single] = file
            names = file.entries.map(\.name)
            files = Dictionary(uniqueKeysWithValues: names.map { ($0, single) })
        }
    }

    public func contains(_ name: String) -> Bool { files[name] != nil }

    /// The open file that holds a tensor.
    /// - Throws: `.malformed` if there is no such tensor.
    public func file(of name: String) throws(FileError) -> SafeTensorsFile {
        guard let shard = files[name] else {
            throw .malformed(path: path, "has no tensor '\(name)' among its \(names.count)")
        }
        if let file = open[shard] { return file }
        let file = try SafeTensorsFile(shard)
        open[shard] = file
        return file
    }

    public func entry(_ name: String) throws(FileError) -> SafeTensorsEntry {
        let file = try file(of: name)
        guard let entry = file.entry(name) else {
            throw .malformed(path: file.path, "lacks the tensor '\(name)', which the index places there")
        }
        return entry
    }

    public func floats(_ name: String) throws(FileError) -> [Float] {
        try file(of: name).floats(name)
    }

    public func readFloats(
        _ name: String, into destination: UnsafeMutablePointer<Float>, count: Int, range: Range<Int>? = nil
    ) throws(FileError) {
        try file(of: name).readFloats(name, into: destination, count: count, range: range)
    }
}
