import Autograd
import Communication
import Foundation
import Models
import Pipeline
import Tensors

/// One forward and backward without an update, as a file that other frameworks can read: how anyone
/// checks a model, and how our own tests compare rank counts byte by byte.
///
/// float32: `param.<name>`, `grad.<name>`, `output` `[B, T, V]`, `loss` (what is minimised, in nats per counted
/// token, a scalar; where it has other terms than the cross-entropy, also `loss.cross_entropy` and `loss.<term>`),
/// `carry.<i>.<name>` `[L, B, H]`; int64: `batch.inputs`, `batch.targets` `[B, T]`. Tensors stand
/// in canonical order; the bytes do not depend on ranks or threads.
enum Probe {
    enum BatchSource {
        case data(DataSet)
        case given(TokenBatch)
    }

    /// Reads `batch.inputs` and `batch.targets`, `[B, T]` integers of equal shape.
    static func readBatch(_ path: String) throws -> TokenBatch {
        let file = try SafeTensorsFile(path)
        let inputs = try file.integers("batch.inputs").map(Int32.init(truncatingIfNeeded:))
        let targets = try file.integers("batch.targets").map(Int32.init(truncatingIfNeeded:))
        let shape = file.entry("batch.inputs")!.shape
        guard shape.count == 2, shape == file.entry("batch.targets")!.shape, !inputs.isEmpty else {
            throw RunError.usage(
                "\(path): batch.inputs has shape \(shape), batch.targets \(file.entry("batch.targets")!.shape); expected one shape [B, T]"
            )
        }
        return TokenBatch(
            rows: shape[0], time: shape[1], inputs: inputs, targets: targets,
            restarts: Array(repeating: true, count: shape[0]))
    }

    /// Collective; rank 0 writes.
    static func write(session: Session, source: BatchSource, parameters path: String?, to out: String) throws {
        let communicator = session.communicator
        _ = try session.initializeParameters()
        if let path { try Collective.agree(communicator) { try load(path, session) } }
        let batch = try Collective.agree(communicator) {
            switch source {
            case .data(let data): return data.trainingBatch(step: 1)
            case .given(let batch):
                try check(batch, session)
                return batch
            }
        }
        session.runtime.keepsCarryAcrossBatches = true
        let vocabulary = session.model.vocabularySize
        let headRank = session.plan.headRank
        if session.pipeline.rank == headRank {
            session.runtime.capturedLogits = session.context.tensor(Shape(batch.rows, batch.time, vocabulary))
        }
        var gradients: [Int: Tensor] = [:]
        let result = try session.trainStep(batch, step: 1, rate: 0) { reduced in
            gradients = reduced.mapValues { $0.copied(pool: session.context.pool, category: .gradients) }
        }

        if let logits = session.runtime.capturedLogits {
            try session.exchange?.collect(rows: session.plan.cut, width: batch.time * vocabulary, at: logits.pointer)
        }
        // Rank numbers of the first pipeline are also those of the job, and it has everything.
        var collector = Collector(communicator: communicator)
        // What follows no gradient is left out.
        let parameters = session.model.registry.parameters.enumerated().filter { $0.element.hasGradient }
        for (index, parameter) in parameters {
            collector.add("param.\(parameter.name)", parameter.shape.dimensions, owner: session.tied.owner(index)) {
                parameter.value
            }
        }
        for (index, parameter) in parameters {
            collector.add("grad.\(parameter.name)", parameter.shape.dimensions, owner: session.tied.owner(index)) {
                gradients[index]!
            }
        }
        collector.add("output", [batch.rows, batch.time, vocabulary], owner: headRank) {
            session.runtime.capturedLogits!
        }
        try collector.addEverywhere(try StreamState.collect(session))

        var scalars = [("loss", Float(result.objective))]
        if !result.auxiliary.isEmpty {
            scalars.append(("loss.cross_entropy", Float(result.loss)))
            scalars += result.auxiliary.sorted { $0.key < $1.key }.map { ("loss.\($0.key)", Float($0.value)) }
        }
        try collector.write(
            to: out,
            integers: [
                ("batch.inputs", [batch.rows, batch.time], batch.inputs.map(Int64.init)),
                ("batch.targets", [batch.rows, batch.time], batch.targets.map(Int64.init)),
            ],
            scalars: scalars)
    }

    private static func check(_ batch: TokenBatch, _ session: Session) throws {
        let size = Int32(session.model.vocabularySize)
        if let bad = batch.inputs.first(where: { $0 < 0 || $0 >= size }) ?? batch.targets.first(where: { $0 >= size }) {
            throw RunError.usage("the batch file holds token \(bad); model.vocabulary_size is \(size)")
        }
    }

    private static func load(_ path: String, _ session: Session) throws {
        let file = try SafeTensorsFile(path)
        for (_, parameter) in session.heldParameters where parameter.hasGradient {
            let name = "param.\(parameter.name)"
            guard file.entry(name)?.shape == parameter.shape.dimensions else {
                throw RunError.usage(
                    "\(path): tensor '\(name)' has shape \(file.entry(name)?.shape.description ?? "(absent)"); the model wants \(parameter.shape)"
                )
            }
            try file.readFloats(name, into: parameter.value.pointer, count: parameter.value.count)
            parameter.valueChanged()
        }
    }
}

/// Brings tensors from the ranks that own them to rank 0's file, one at a time.
private struct Collector {
    private struct Entry {
        let name: String
        let shape: [Int]
        let owner: Int
        let tensor: () -> Tensor
    }

    let communicator: any Communicator
    private var entries: [Entry] = []

    init(communicator: any Communicator) { self.communicator = communicator }

    /// Declared alike on every rank; `tensor` is asked for on the owner only.
    mutating func add(_ name: String, _ shape: [Int], owner: Int, _ tensor: @escaping () -> Tensor) {
        entries.append(Entry(name: name, shape: shape, owner: owner, tensor: tensor))
    }

    /// Tensors that only their owner knows of, in the order of their layers. Collective.
    mutating func addEverywhere(_ state: StreamState) throws {
        let mine = state.tensors.map {
            "\($0.layer) \($0.name) \($0.tensor.shape.dimensions.map(String.init).joined(separator: " "))"
        }
        let all = try communicator.allGather(Array(mine.joined(separator: "\n").utf8))
        var found: [(layer: Int, owner: Int, words: [String])] = []
        for (owner, bytes) in all.enumerated() {
            for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
                let words = line.split(separator: " ").map(String.init)
                found.append((Int(words[0])!, owner, Array(words.dropFirst())))
            }
        }
        // A layer's tensors lie on one rank, in order.
        for (_, owner, words) in found.enumerated().sorted(by: {
            ($0.element.layer, $0.offset) < ($1.element.layer, $1.offset)
        })
        .map(\.element) {
            add(words[0], words.dropFirst().map { Int($0)! }, owner: owner) {
                state.tensors.first { $0.name == words[0] }!.tensor
            }
        }
    }

    /// Collective. Rank 0 writes; a failure there ends all ranks.
    func write(to path: String, integers: [(String, [Int], [Int64])], scalars: [(String, Float)]) throws {
        let isWriter = communicator.rank == 0
        var writer: SafeTensorsWriter?
        try Collective.agree(communicator) {
            guard isWriter else { return }
            var declared = entries.map { SafeTensorsEntry(name: $0.name, shape: $0.shape) }
            declared += integers.map { SafeTensorsEntry(name: $0.0, element: .int64, shape: $0.1) }
            declared += scalars.map { SafeTensorsEntry(name: $0.0, shape: []) }
            writer = try SafeTensorsWriter(path, entries: declared)
        }
        for entry in entries {
            let count = entry.shape.reduce(1, *)
            if entry.owner == communicator.rank {
                let tensor = entry.tensor()
                let bytes = UnsafeRawBufferPointer(start: tensor.pointer, count: count * 4)
                if isWriter {
                    try writer?.write(entry.name, tensor.pointer, count: count)
                } else {
                    try communicator.send(bytes, to: 0, tag: 0).wait()
                }
            } else if isWriter {
                let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count * 4, alignment: 64)
                defer { buffer.deallocate() }
                try communicator.receive(into: buffer, from: entry.owner, tag: 0).wait()
                try writer?.write(entry.name, buffer.baseAddress!.assumingMemoryBound(to: Float.self), count: count)
            }
        }
        try Collective.agree(communicator) {
            for (name, _, values) in integers { try writer?.write(name, values) }
            for (name, value) in scalars { try writer?.write(name, [value]) }
            try writer?.finish()
        }
    }
}
