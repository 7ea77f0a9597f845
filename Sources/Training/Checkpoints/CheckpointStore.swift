import Autograd
import Communication
import Foundation
import Models
import Pipeline
import Tensors

/// Checkpoints of a run: `step-00001000/` directories, `latest`, and what belongs beside them.
///
/// A checkpoint holds `model-*.safetensors` with `model.safetensors.index.json` (Hugging Face layout),
/// `optimizer-*.safetensors`, `stream-*.safetensors` for the state of streams, `vocabulary.json`,
/// `state.json`, and `checksums.json` over all of them. Tensors are keyed by canonical names, so any
/// number of ranks can resume from it. It is written beside, synced, and renamed; `latest` then names
/// it. The ranks' nodes must share the directory.
public final class CheckpointStore {
    public let directory: String
    private let session: Session
    private let data: DataSet
    private let resolvedConfiguration: String?
    private var communicator: any Communicator { session.communicator }
    private var isFirst: Bool { session.rank == 0 }

    public struct Resumed: Sendable {
        public let step: Int
        public let path: String
    }

    /// - Parameter resolvedConfiguration: written to `config.yaml`; nil opens for reading only.
    public init(directory: String, session: Session, data: DataSet, resolvedConfiguration: String?) throws {
        self.directory = directory
        self.session = session
        self.data = data
        self.resolvedConfiguration = resolvedConfiguration
    }

    // MARK: Saving

    /// Writes a checkpoint and prunes old ones. Collective.
    ///
    /// - Returns: its path. - Throws: on all ranks, leaving earlier checkpoints as they were.
    public func save(step: Int) throws -> String {
        let name = Self.name(step)
        let final = directory + "/" + name
        let partial = directory + "/" + name + ".partial"
        try Collective.agree(communicator) {
            guard isFirst else { return }
            if FileSystem.exists(partial) { try FileSystem.removeTree(partial) }
            try FileSystem.createDirectories(partial)
        }
        let manifest = try Collective.agree(communicator) { try writeShards(in: partial) }
        let manifests = try communicator.gather(Array(manifest.joined(separator: "\n").utf8), root: 0)
        try Collective.agree(communicator) {
            guard let manifests else { return }
            try complete(partial, step: step, manifests.map { String(decoding: $0, as: UTF8.self) })
            if FileSystem.exists(final) { try FileSystem.removeTree(final) }
            try FileSystem.rename(partial, to: final)
            try FileSystem.synchronizeDirectory(directory)
            try FileSystem.replace(directory + "/latest", with: Array((name + "\n").utf8))
            try prune(keeping: name)
        }
        return final
    }

    /// Lines `file checksum` and `tensor file name bytes` for what this rank wrote.
    private func writeShards(in path: String) throws -> [String] {
        let owned = session.heldParameters.filter { session.tied.owner($0.index) == session.rank }
        let suffix = "\(Self.padded(session.rank + 1))-of-\(Self.padded(communicator.size))"
        var lines: [String] = []
        func write(_ kind: String, _ tensors: [(name: String, tensor: Tensor)]) throws {
            guard !tensors.isEmpty else { return }
            let file = "\(kind)-\(suffix).safetensors"
            let writer = try SafeTensorsWriter(
                path + "/" + file,
                tensors.map { .init(name: $0.name, type: .float32, shape: $0.tensor.shape.dimensions) })
            for (_, tensor) in tensors {
                try writer.write(UnsafeRawBufferPointer(start: tensor.pointer, count: tensor.count * 4))
            }
            lines.append("file \(file) \(try writer.finish())")
            lines += tensors.map { "tensor \(file) \($0.name) \($0.tensor.count * 4)" }
        }
        try write("model", owned.map { ($0.parameter.name, $0.parameter.value) })
        try write(
            "optimizer",
            owned.flatMap { entry in
                session.optimizer.stateNames.map {
                    ("\(entry.parameter.name).\($0)", session.optimizer.state[entry.parameter.name]![$0]!)
                }
            })
        if session.runtime.keepsCarryAcrossBatches { try write("stream", StreamState.collect(session).tensors) }
        return lines
    }

    private func complete(_ path: String, step: Int, _ manifests: [String]) throws {
        var checksums: [(String, JSONValue)] = []
        var weights: [String: [(String, JSONValue)]] = [:]
        var bytes = 0
        for line in manifests.flatMap({ $0.split(separator: "\n") }) {
            let words = line.split(separator: " ").map(String.init)
            if words[0] == "file" {
                checksums.append((words[1], .string(words[2])))
            } else {
                let kind = String(words[1].prefix { $0 != "-" })
                weights[kind, default: []].append((words[2], .string(words[1])))
                if kind == "model" { bytes += Int(words[3])! }
            }
        }
        func write(_ name: String, _ text: String) throws {
            let content = Array(text.utf8)
            try FileSystem.write(content, to: path + "/" + name)
            checksums.append((name, .string("\(Checksum(of: content))")))
        }
        func index(_ kind: String, _ totalSize: Int?) -> String {
            let metadata = totalSize.map { [("metadata", JSONValue.object([("total_size", .int($0))]))] } ?? []
            let map = (weights[kind] ?? []).sorted { $0.0 < $1.0 }
            return JSONValue.object(metadata + [("weight_map", .object(map))]).text + "\n"
        }
        try write("model.safetensors.index.json", index("model", bytes))
        try write("optimizer.safetensors.index.json", index("optimizer", nil))
        try write("stream.safetensors.index.json", index("stream", nil))
        try write("vocabulary.json", data.vocabulary.json)
        if let resolvedConfiguration { try write("config.yaml", resolvedConfiguration) }
        // Data order and random draws are functions of seed and step, so these two are their whole state.
        try write(
            "state.json",
            JSONValue.object([
                ("format", .int(1)), ("step", .int(step)), ("seed", .int(Int(session.run.seed))),
                ("optimizer", .string(session.run.optimizer.kind.rawValue)),
                ("micro_batches", .int(session.run.parallel.microBatches)),
                ("chunks", .int(session.run.parallel.chunks)),
                ("vocabulary", .string(data.vocabulary.hash)),
            ]).text + "\n")
        try FileSystem.write(Array((JSONValue.object(checksums).text + "\n").utf8), to: path + "/checksums.json")
        try FileSystem.synchronizeDirectory(path)
    }

    private func prune(keeping newest: String) throws {
        let old = try FileSystem.list(directory).filter { Self.step(of: $0) != nil && $0 != newest }.sorted()
        for name in old.dropLast(session.run.checkpoint.keep - 1) { try FileSystem.removeTree(directory + "/" + name) }
        for name in try FileSystem.list(directory) where name.hasPrefix("step-") && name.hasSuffix(".partial") {
            try FileSystem.removeTree(directory + "/" + name)
        }
    }

    // MARK: Loading

    /// Prepares the run directory and, when it holds a checkpoint, loads the latest: parameters,
    /// optimiser, stream state. Collective.
    ///
    /// - Returns: nil when there is nothing to resume from.
    /// - Throws: `RunError.checkpoint` when it is damaged or belongs to another model, data or optimiser.
    public func resume() throws -> Resumed? {
        let latest = try Collective.agree(communicator) {
            if isFirst { try FileSystem.createDirectories(directory) }
            return try latestName()
        }
        guard let latest else {
            try Collective.agree(communicator) {
                guard isFirst, let resolvedConfiguration else { return }
                try FileSystem.replace(directory + "/config.yaml", with: Array(resolvedConfiguration.utf8))
            }
            return nil
        }
        guard session.run.checkpoint.resumes else {
            throw RunError.usage(
                "\(directory) already holds \(latest) and checkpoint.resume is never; choose another checkpoint.directory or set resume: auto")
        }
        let path = directory + "/" + latest
        let step = try loadModel(path)
        try Collective.agree(communicator) {
            let state = try readState(path)
            let optimizer = state["optimizer"] as? String
            guard optimizer == session.run.optimizer.kind.rawValue else {
                throw RunError.checkpoint(
                    path: path,
                    message: "was written with optimizer.type \(optimizer ?? "?"), the run has \(session.run.optimizer.kind.rawValue); use the same, or another checkpoint.directory")
            }
            try load(path, kind: "optimizer") { files in
                for (_, parameter) in session.heldParameters {
                    session.optimizer.prepare(parameter)
                    for (name, tensor) in session.optimizer.state[parameter.name]! {
                        try files.floats("\(parameter.name).\(name)", parameter.shape.dimensions, tensor)
                    }
                }
            }
            guard session.runtime.keepsCarryAcrossBatches else { return }
            try load(path, kind: "stream") { files in
                try StreamState.install(session) { name in try files.tensor(name, session.context) }
            }
        }
        return Resumed(step: step, path: path)
    }

    /// Loads parameters only. Collective.
    ///
    /// - Parameter path: a checkpoint directory; nil takes the latest of the run directory.
    /// - Returns: the step it was written after.
    public func loadModel(_ path: String?) throws -> Int {
        try Collective.agree(communicator) {
            var path = path
            if path == nil { path = try latestName().map { directory + "/" + $0 } }
            guard let path else {
                throw RunError.checkpoint(path: directory, message: "holds no checkpoint; train first, or give --checkpoint DIR")
            }
            try verifyChecksums(path)
            let state = try readState(path)
            guard let step = state["step"] as? Int else {
                throw RunError.checkpoint(path: path + "/state.json", message: "names no step")
            }
            let saved = try Vocabulary(json: try FileSystem.readText(path + "/vocabulary.json"))
            do {
                try data.vocabulary.requireMatch(saved)
            } catch {
                throw RunError.checkpoint(path: path, message: "\(error)")
            }
            try load(path, kind: "model") { files in
                for (_, parameter) in session.heldParameters {
                    parameter.materialize(seed: session.run.seed, session.context)
                    try files.floats(parameter.name, parameter.shape.dimensions, parameter.value)
                }
            }
            return step
        }
    }

    private func latestName() throws -> String? {
        let pointer = directory + "/latest"
        guard FileSystem.exists(directory) else { return nil }
        if FileSystem.exists(pointer) {
            let name = try FileSystem.readText(pointer).trimmingCharacters(in: .whitespacesAndNewlines)
            if Self.step(of: name) != nil, FileSystem.isDirectory(directory + "/" + name) { return name }
        }
        // A crash between the rename and the update of `latest` leaves a complete checkpoint without a pointer.
        return try FileSystem.list(directory).filter { Self.step(of: $0) != nil }.sorted().last
    }

    private func readState(_ path: String) throws -> [String: Any] { try Self.readObject(path + "/state.json") }

    private static func readObject(_ path: String) throws -> [String: Any] {
        let text = try FileSystem.readText(path)
        guard let object = try? JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any] else {
            throw RunError.checkpoint(path: path, message: "is not a JSON object; the checkpoint is damaged, remove it to resume from the one before")
        }
        return object
    }

    /// Every rank checks every file: a damaged one is found before anything is overwritten.
    private func verifyChecksums(_ path: String) throws {
        guard FileSystem.isDirectory(path) else {
            throw RunError.checkpoint(path: path, message: "is not a checkpoint directory")
        }
        for (name, expected) in try Self.readObject(path + "/checksums.json").sorted(by: { $0.key < $1.key }) {
            let actual = "\(try Checksum.ofFile(path + "/" + name))"
            guard actual == expected as? String else {
                throw RunError.checkpoint(
                    path: path + "/" + name,
                    message: "has checksum \(actual), expected \(expected); the file is damaged or cut short. Remove \(path) to resume from the checkpoint before it")
            }
        }
    }

    private func load(_ path: String, kind: String, _ body: (ShardedTensors) throws -> Void) throws {
        let index = try Self.readObject(path + "/\(kind).safetensors.index.json")
        try body(ShardedTensors(path, index["weight_map"] as? [String: String] ?? [:]))
    }

    // MARK: Names

    static func name(_ step: Int) -> String {
        let digits = String(step)
        return "step-" + String(repeating: "0", count: max(0, 8 - digits.count)) + digits
    }

    static func step(of name: String) -> Int? {
        guard name.hasPrefix("step-"), name.count >= 13 else { return nil }
        return Int(name.dropFirst(5))
    }

    private static func padded(_ number: Int) -> String {
        let digits = String(number)
        return String(repeating: "0", count: max(0, 5 - digits.count)) + digits
    }
}

/// Tensors spread over the files of one checkpoint, opened as they are needed.
private final class ShardedTensors {
    private let path: String
    private let map: [String: String]
    private var files: [String: SafeTensorsFile] = [:]

    init(_ path: String, _ map: [String: String]) {
        self.path = path
        self.map = map
    }

    private func file(of name: String) throws -> SafeTensorsFile? {
        guard let shard = map[name] else { return nil }
        if let open = files[shard] { return open }
        let opened = try SafeTensorsFile(path + "/" + shard)
        files[shard] = opened
        return opened
    }

    func floats(_ name: String, _ shape: [Int], _ tensor: Tensor) throws {
        guard let file = try file(of: name) else {
            throw RunError.checkpoint(
                path: path, message: "has no tensor '\(name)'; it belongs to another model. Use the configuration it was written with, or another checkpoint.directory")
        }
        try file.floats(name, shape: shape, into: tensor.pointer)
    }

    func tensor(_ name: String, _ context: ComputeContext) throws -> Tensor? {
        guard let file = try file(of: name) else { return nil }
        let shape = try file.shape(name)
        guard shape.count == 3 else {
            throw RunError.checkpoint(path: path, message: "tensor '\(name)' has shape \(shape), expected [layers, rows, width]")
        }
        let tensor = context.tensor(Shape(shape[0], shape[1], shape[2]))
        try file.floats(name, shape: shape, into: tensor.pointer)
        return tensor
    }
}
