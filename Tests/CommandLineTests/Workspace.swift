import Foundation
import TestSupport
import Testing

/// A temporary directory with a small text and a small hybrid model, removed at the end.
final class Workspace {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("seqtrain-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try write("text.txt", Self.text())
        try write("hybrid.yaml", Self.hybrid)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    var config: String { path + "/hybrid.yaml" }

    func write(_ name: String, _ content: String) throws {
        try Data(content.utf8).write(to: URL(fileURLWithPath: path + "/" + name))
    }

    func bytes(_ name: String) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: path + "/" + name)) }

    func exists(_ name: String) -> Bool { FileManager.default.fileExists(atPath: path + "/" + name) }

    func list(_ name: String = "") -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: path + "/" + name)) ?? []).sorted()
    }

    /// Runs the binary with `hybrid.yaml`, which every command here uses, and expects success.
    @discardableResult
    func run(
        _ command: String? = nil, _ arguments: [String] = [], ranks: Int? = nil, timeout: Double = 120
    ) throws -> CommandResult {
        let result = try attempt(command, arguments, ranks: ranks, timeout: timeout)
        try #require(
            result.status == 0, "\(command ?? "train") \(arguments), ranks \(ranks ?? 0): \(result.errorOutput)")
        return result
    }

    /// As `run`, for commands that are meant to fail.
    func attempt(
        _ command: String? = nil, _ arguments: [String] = [], ranks: Int? = nil, timeout: Double = 120
    ) throws -> CommandResult {
        try Binary.run([command, config].compactMap { $0 } + arguments, ranks: ranks, timeout: timeout)
    }

    /// All tensors of a checkpoint, whatever files they lie in.
    func checkpoint(_ name: String) throws -> [String: StoredTensors.Entry] {
        var tensors: [String: StoredTensors.Entry] = [:]
        for file in list(name) where file.hasSuffix(".safetensors") {
            tensors.merge(try StoredTensors(path: "\(path)/\(name)/\(file)").entries) { first, _ in first }
        }
        return tensors
    }

    /// Step, loss, norm and validation loss of every line of a run's `metrics.jsonl`.
    func losses(_ run: String) throws -> [[Double]] {
        try String(decoding: bytes(run + "/metrics.jsonl"), as: UTF8.self).split(separator: "\n").map { line in
            let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as! [String: Any]
            return ["step", "loss", "gradient_norm", "validation_loss"].map { object[$0] as? Double ?? -1 }
        }
    }

    /// Words drawn from a fixed generator: text with some structure to learn.
    private static func text() -> String {
        let words = ["the", "ring", "of", "ranks", "hands", "each", "wave", "on", "and", "back", "again", "slowly"]
        var state: UInt64 = 1
        var text = ""
        for i in 0..<4000 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            text += words[Int(state >> 33) % words.count] + (i % 9 == 8 ? ".\n" : " ")
        }
        return text
    }

    /// Tied embeddings, dropout everywhere, a recurrent stack of two layers, a window: seven layers to cut.
    private static let hybrid = """
        train: { steps: 20, batch_size: 6, sequence_length: 22 }
        model:
          width: 24
          tie_embeddings: true
          dropout: 0.1
          layers:
            - repeat: 2
              layers:
                - mixer: { type: lstm, num_layers: 2, dropout: 0.1 }
                  mlp: { type: swiglu, hidden_size: 32 }
                - mixer: { type: attention, head_count: 3, window: 9 }
                  mlp: { type: gelu, hidden_size: 32 }
            - mixer: { type: gru }
        data: { format: characters, text: text.txt, sampling: stream }
        optimizer: { type: adamw, clip_norm: 0.5 }
        learning_rate: { peak: 3e-3, schedule: cosine, warmup_steps: 4 }
        parallel: { micro_batches: 4 }
        eval: { every: 10, batches: 2 }
        log: { every: 5 }
        """
}
