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
/// `state.json`, and `manifest.json` with their checksums. Tensors are keyed by canonical names and whole, so any
/// number of ranks and replicas can resume from it; replica 0 writes it. It is written beside, synced, and renamed; `latest` then names
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
        var atomic: AtomicDirectory?
        try Collective.agree(communicator) {
            if isFirst { atomic = try AtomicDirectory(final, token: "writing") }
        }
        let report = try Collective.agree(communicator) { try writeShards(in: final + ".partial-writing") }
        let reports = try communicator.gather(Array(JSON.array(report.map(\.json)).text.utf8), root: 0)
        try Collective.agree(communicator) {
            guard let reports, let atomic else { return }
            let shards = try reports.flatMap { try JSON(parsing: $0).array!.map(Shard.init) }
            try complete(atomic.path, step: step, shards)
            try atomic.commit()
            try FileSystem.replace(directory + "/latest", with: Array((name + "\n").utf8))
            try prune(keeping: name)
        }
        return final
    }

    /// One file that one rank wrote, and what is in it.
    private struct Shard {
        let kind: String
        let file: ChecksumManifest.Entry
        let tensors: [String]
        let byteCount: Int

        init(kind: String, file: ChecksumManifest.Entry, tensors: [String], byteCount: Int) {
            self.kind = kind
            self.file = file
            self.tensors = tensors
            self.byteCount = byteCount
        }

        init(_ json: JSON) {
            kind = json["kind"]!.string!
            file = .init(
                name: json["name"]!.string!, byteCount: json["bytes"]!.int!, checksum: json["checksum"]!.string!)
            tensors = json["tensors"]!.array!.map { $0.string! }
            byteCount = json["tensor_bytes"]!.int!
        }

        var json: JSON {
            .object([
                .init("kind", .string(kind)), .init("name", .string(file.name)), .init("bytes", .int(file.byteCount)),
                .init("checksum", .string(file.checksum)), .init("tensors", .array(tensors.map(JSON.string))),
                .init("tensor_bytes", .int(byteCount)),
            ])
        }
    }

    /// A tensor of the model, and how to get at its elements: nil in replicas other than 0, which do not write but
    /// must ask all the same, as replica 0 may need what they have.
    private typealias Source = (name: String, shape: Shape, tensor: () throws -> Tensor?)

    private func writeShards(in path: String) throws -> [Shard] {
        let owned = session.heldParameters.filter { session.tied.owner($0.index) == session.pipeline.rank }
        var shards: [Shard] = []
        var failure: (any Error)?
        func write(_ kind: String, _ sources: [Source]) throws {
            do {
                if let shard = try writeShard(kind, sources, in: path) { shards.append(shard) }
            } catch let error as CommunicationError {
                throw error
            } catch {
                failure = failure ?? error
            }
        }
        let isWriter = session.share.replica == 0
        try write(
            Self.modelKind,
            owned.map { _, parameter in (parameter.name, parameter.shape, { isWriter ? parameter.value : nil }) })
        try write(
            Self.optimizerKind,
            owned.flatMap { _, parameter in
                (parameter.hasGradient ? session.optimizer.stateNames : []).map { name in
                    ("\(parameter.name).\(name)", parameter.shape, { [self] in try state(name, of: parameter) })
                }
            })
        if session.runtime.keepsCarryAcrossBatches {
            let state = try StreamState.collect(session)
            try write(Self.streamKind, state.tensors.map { _, name, tensor in (name, tensor.shape, { tensor }) })
        }
        if let failure { throw failure }
        return shards
    }

    /// This rank's part of one kind of tensors; nil when it has none to write.
    ///
    /// - Throws: only after all sources have been asked, so that no other replica is left waiting.
    private func writeShard(_ kind: String, _ sources: [Source], in path: String) throws -> Shard? {
        let file = SafeTensorsIndex.fileName(prefix: kind, shard: session.pipeline.rank, of: session.pipeline.size)
        let entries = sources.map { SafeTensorsEntry(name: $0.name, shape: $0.shape.dimensions) }
        let isWriter = session.share.replica == 0 && !sources.isEmpty
        let writer = Result { isWriter ? try SafeTensorsWriter(path + "/" + file, entries: entries) : nil }
        var written = writer.map { _ in }
        for source in sources {
            guard let tensor = try source.tensor() else { continue }
            written = written.flatMap { _ in
                Result { try writer.get()?.write(source.name, tensor.pointer, count: tensor.count) }
            }
        }
        try written.get()
        return try writer.get().map { writer in
            Shard(
                kind: kind, file: try writer.finish(), tensors: sources.map(\.name),
                byteCount: entries.reduce(0) { $0 + $1.byteCount })
        }
    }

    /// A parameter's state, whole; nil in replicas other than 0. Collective over the replicas of a rank.
    private func state(_ name: String, of parameter: Parameter) throws -> Tensor? {
        let share = session.optimizer.state[parameter.name]![name]!
        guard let exchange = session.exchange else { return share }
        let whole = session.share.replica == 0 ? session.context.tensor(parameter.shape, .messages) : nil
        whole?.copy(from: share.pointer, count: share.count)
        try exchange.collect(share.pointer, into: whole?.pointer) { $0.range(of: parameter.shape.count) }
        return whole
    }

    private func complete(_ path: String, step: Int, _ shards: [Shard]) throws {
        var manifest = ChecksumManifest(entries: shards.map(\.file))
        func add(_ name: String) throws {
            let bytes = try FileSystem.read(path + "/" + name)
            manifest.entries.append(
                .init(name: name, byteCount: bytes.count, checksum: Checksum(of: bytes).description))
        }
        for kind in [Self.modelKind, Self.optimizerKind, Self.streamKind] {
            let mine = shards.filter { $0.kind == kind }
            guard !mine.isEmpty else { continue }
            let index = SafeTensorsIndex(
                shards: mine.flatMap { shard in shard.tensors.map { ($0, shard.file.name) } }.sorted { $0.0 < $1.0 },
                totalByteCount: mine.reduce(0) { $0 + $1.byteCount })
            try index.write(to: path + "/\(kind).safetensors.index.json")
            try add("\(kind).safetensors.index.json")
        }
        func write(_ name: String, _ text: String) throws {
            try FileSystem.write(Array(text.utf8), to: path + "/" + name)
            try add(name)
        }
        try write("vocabulary.json", data.vocabulary.json.indentedText)
        if let resolvedConfiguration { try write("config.yaml", resolvedConfiguration) }
        // Data order and random draws are functions of seed and step, so these two are their whole state.
        try write(
            "state.json",
            JSON.object([
                .init("format", .int(1)), .init("step", .int(step)), .init("seed", .int(Int(session.run.seed))),
                .init("optimizer", .string(session.run.optimizer.kind.rawValue)),
                .init("vocabulary", .string(data.vocabulary.vocabularyHash)),
            ]).indentedText)
        try manifest.write(to: path)
    }

    private func prune(keeping newest: String) throws {
        let old = try FileSystem.list(directory).filter { Self.step(of: $0) != nil && $0 != newest }.sorted()
        for name in old.dropLast(session.run.checkpoint.keep - 1) { try FileSystem.remove(directory + "/" + name) }
    }

    private static let modelKind = "model"
    private static let optimizerKind = "optimizer"
    private static let streamKind = "stream"

    // MARK: Loading

    /// Prepares the run directory and, when it holds a checkpoint, loads the latest: parameters,
    /// optimiser, stream state. Collective.
    ///
    /// - Returns: nil when there is nothing to resume from.
    /// - Throws: when it is damaged or belongs to another model, data or optimiser.
    public func resume() throws -> Resumed? {
        let latest = try Collective.agree(communicator) {
            if isFirst {
                try FileSystem.createDirectory(directory)
                try AtomicDirectory.removeLeftovers(in: directory)
            }
            return isFirst ? try latestName() : nil
        }
        // One rank looks, so that no rank sees what another is tidying up.
        let name = String(decoding: try communicator.allGather(Array((latest ?? "").utf8))[0], as: UTF8.self)
        guard !name.isEmpty else {
            try Collective.agree(communicator) {
                guard isFirst, let resolvedConfiguration else { return }
                try FileSystem.replace(directory + "/config.yaml", with: Array(resolvedConfiguration.utf8))
            }
            return nil
        }
        return try Collective.agree(communicator) {
            guard session.run.checkpoint.resumes else {
                throw RunError.usage(
                    "\(directory) already holds \(name) and checkpoint.resume is never; choose another checkpoint.directory or set resume: auto"
                )
            }
            let path = directory + "/" + name
            let state = try loadParameters(path)
            let kind = session.run.optimizer.kind.rawValue
            guard state["optimizer"]?.string == kind else {
                throw RunError.checkpoint(
                    path: path,
                    message:
                        "was written with optimizer.type \(state["optimizer"]?.string ?? "?"), the run has \(kind); use the same, or another checkpoint.directory"
                )
            }
            guard state["seed"]?.int == Int(session.run.seed) else {
                throw RunError.checkpoint(
                    path: path,
                    message:
                        "was written with seed \(state["seed"]?.int ?? -1), the run has \(session.run.seed); use the same, or another checkpoint.directory"
                )
            }
            try naming(path) {
                if !session.optimizer.stateNames.isEmpty {
                    let files = try SafeTensorsCollection(path, prefix: Self.optimizerKind)
                    for (_, parameter) in session.heldParameters where parameter.hasGradient {
                        session.optimizer.prepare(parameter)
                        for (name, tensor) in session.optimizer.state[parameter.name]! {
                            try Self.read(
                                "\(parameter.name).\(name)", parameter.shape, from: files, into: tensor,
                                range: session.share.range(of: parameter.shape.count))
                        }
                    }
                }
                if session.runtime.keepsCarryAcrossBatches,
                    FileSystem.exists(path + "/\(Self.streamKind).safetensors.index.json")
                {
                    let files = try SafeTensorsCollection(path, prefix: Self.streamKind)
                    try StreamState.install(session) { name in try stream(name, from: files) }
                }
            }
            return Resumed(step: state["step"]!.int!, path: path)
        }
    }

    /// Loads parameters only. Collective.
    ///
    /// - Parameter path: a checkpoint directory; nil takes the latest of the run directory.
    /// - Returns: the step it was written after.
    public func loadModel(_ path: String?) throws -> Int {
        try Collective.agree(communicator) {
            guard let path = try path ?? latestName().map({ directory + "/" + $0 }) else {
                throw RunError.checkpoint(
                    path: directory, message: "holds no checkpoint; train first, or give --checkpoint DIR")
            }
            return try loadParameters(path)["step"]!.int!
        }
    }

    /// Checks the checkpoint as a whole and reads this rank's parameters. - Returns: `state.json`.
    private func loadParameters(_ path: String) throws -> JSON {
        guard FileSystem.isDirectory(path) else {
            throw RunError.checkpoint(path: path, message: "is not a checkpoint directory")
        }
        return try naming(path) {
            // Every rank checks every file: a damaged one is found before anything is overwritten.
            try ChecksumManifest(readingFrom: path).verify(in: path)
            let state = try JSON(parsing: FileSystem.read(path + "/state.json"))
            guard state["step"]?.int != nil else {
                throw RunError.checkpoint(path: path + "/state.json", message: "names no step")
            }
            let file = path + "/vocabulary.json"
            try data.vocabulary.requireSame(as: try Vocabulary(JSON(parsing: FileSystem.read(file)), path: file))
            let files = try SafeTensorsCollection(path, prefix: Self.modelKind)
            for (_, parameter) in session.heldParameters {
                parameter.materialize(seed: session.run.seed, session.context)
                try Self.read(parameter.name, parameter.shape, from: files, into: parameter.value)
                parameter.valueChanged()
            }
            return state
        }
    }

    /// Adds the checkpoint and the way out to whatever `body` throws.
    private func naming<Result>(_ path: String, _ body: () throws -> Result) throws -> Result {
        do {
            return try body()
        } catch let error as RunError {
            throw error
        } catch let error as FileError {
            throw RunError.checkpoint(
                path: path,
                message: "\(error). If it is damaged, remove \(path) to resume from the checkpoint before it")
        } catch {
            throw RunError.checkpoint(path: path, message: "\(error)")
        }
    }

    private static func read(
        _ name: String, _ expected: Shape, from files: SafeTensorsCollection, into tensor: Tensor,
        range: Range<Int>? = nil
    ) throws {
        let shape = files.contains(name) ? try files.entry(name).shape : []
        guard shape == expected.dimensions else {
            throw RunError.checkpoint(
                path: files.path,
                message: (files.contains(name)
                    ? "tensor '\(name)' has shape \(shape), the model wants \(expected)"
                    : "has no tensor '\(name)'")
                    + "; it belongs to another model. Use the configuration it was written with, or another checkpoint.directory"
            )
        }
        try files.readFloats(name, into: tensor.pointer, count: expected.count, range: range)
    }

    private func stream(_ name: String, from files: SafeTensorsCollection) throws -> Tensor? {
        guard files.contains(name) else { return nil }
        let shape = try files.entry(name).shape
        guard shape.count == 3, shape[1] == session.plan.cut.rows else {
            throw RunError.checkpoint(
                path: files.path,
                message:
                    "stream state '\(name)' has shape \(shape); the run has train.batch_size \(session.plan.cut.rows). Use the batch size it was written with"
            )
        }
        let tensor = session.context.tensor(Shape(shape[0], shape[1], shape[2]))
        try files.readFloats(name, into: tensor.pointer, count: tensor.count)
        return tensor
    }

    /// The latest checkpoint of a run directory; any other path as it is.
    static func resolved(_ path: String) throws -> String {
        guard FileSystem.exists(path + "/latest") else { return path }
        return try path + "/" + FileSystem.readText(path + "/latest").trimmingCharacters(in: .whitespacesAndNewlines)
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

    // MARK: Names

    static func name(_ step: Int) -> String {
        let digits = String(step)
        return "step-" + String(repeating: "0", count: max(0, 8 - digits.count)) + digits
    }

    static func step(of name: String) -> Int? {
        guard name.hasPrefix("step-"), name.count >= 13 else { return nil }
        return Int(name.dropFirst(5))
    }
}
