import Foundation
import TestSupport
import Testing

/// The binary against float64 values of an independent PyTorch reference, through `seqtrain probe`:
/// logits, loss, every gradient, final states. `Tests/Golden/README.md` says how the files are made.
@Suite(.serialized) struct GoldenTests {
    /// Bar of the project for float32: worst difference ÷ largest expected value, tensor by tensor.
    static let bar = 2e-4
    /// Gradients smaller than this part of the case's largest one are compared on that scale: some vanish
    /// identically (the keys' bias without rotary positions) and leave nothing but rounding errors.
    static let gradientFloor = 1e-3

    static let directory = Binary.packageRoot + "/Tests/Golden/cases"
    static let cases = ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? [])
        .filter { $0.hasSuffix(".yaml") }.map { String($0.dropLast(5)) }.sorted()

    @Test func casesAreThere() throws {
        #expect(Self.cases.count >= 25)
        for name in Self.cases {
            let golden = try Self.golden(name)
            #expect(golden["output"]?.shape.count == 3, "\(name)")
            #expect(golden["batch.inputs"]?.shape == golden["batch.targets"]?.shape, "\(name)")
        }
    }

    @Test(arguments: cases) func wholeBatch(_ name: String) throws {
        try Self.compare(name, [])
    }

    /// Carries handed from chunk to chunk, forward and backward, and gradients summed over micro-batches.
    @Test(arguments: cases) func chunksAndMicroBatches(_ name: String) throws {
        let golden = try Self.golden(name)
        let shape = golden["batch.inputs"]!.shape
        // Models that have to see whole sequences say so.
        let text = try String(contentsOfFile: "\(Self.directory)/\(name).yaml", encoding: .utf8)
        let isChunkable = !text.contains("chunks: 1")
        let isDivisible = !text.contains("balance_scope: micro_batch")
        try Self.compare(
            name,
            [
                "parallel.micro_batches=\(isDivisible ? min(2, shape[0]) : 1)",
                "parallel.chunks=\(isChunkable ? min(3, shape[1]) : 1)",
            ])
    }

    @Test(arguments: [
        "hybrid", "tied_embeddings", "word_language_model", "mor_expert_updated_keys", "mor_token_loss_free",
    ])
    func localRanks(_ name: String) throws {
        try Self.compare(name, ["parallel.micro_batches=2", "--local-ranks", "2"])
    }

    @Test(.enabled(if: Binary.mpirun != nil), arguments: ["hybrid", "tied_embeddings"])
    func ranksUnderMPI(_ name: String) throws {
        try Self.compare(name, ["parallel.micro_batches=2"], ranks: 2)
    }

    private static func golden(_ name: String) throws -> StoredTensors {
        try StoredTensors(path: "\(directory)/\(name).safetensors")
    }

    private static func compare(_ name: String, _ arguments: [String], ranks: Int? = nil) throws {
        let file = "\(directory)/\(name).safetensors"
        let out = FileManager.default.temporaryDirectory.appendingPathComponent(
            "golden-\(UUID().uuidString).safetensors"
        ).path
        defer { try? FileManager.default.removeItem(atPath: out) }
        let result = try Binary.run(
            ["probe", "\(directory)/\(name).yaml"] + arguments + ["--params", file, "--batch", file, "--out", out],
            ranks: ranks)
        try #require(
            result.status == 0,
            "\(name): status \(result.status)\(result.timedOut ? ", timed out" : "")\n\(result.errorOutput)")

        let (expected, got) = (try StoredTensors(path: file), try StoredTensors(path: out))
        for prefix in ["param.", "grad.", "carry."] {
            #expect(
                got.names.filter { $0.hasPrefix(prefix) } == expected.names.filter { $0.hasPrefix(prefix) },
                "\(name): names of \(prefix)*")
        }
        let largestGradient =
            expected.names.filter { $0.hasPrefix("grad.") }
            .map { expected[$0]!.values.largestMagnitude }.max() ?? 0
        var worst = (error: 0.0, tensor: "none")
        for tensor in expected.names {
            guard let a = got[tensor] else {
                Issue.record("\(name): the probe wrote no \(tensor)")
                continue
            }
            let b = expected[tensor]!
            #expect(a.shape == b.shape, "\(name): shape of \(tensor)")
            guard a.values.count == b.values.count else { continue }
            if tensor.hasPrefix("param.") || tensor.hasPrefix("batch.") {
                #expect(a.values == b.values, "\(name): \(tensor) came back changed")
                continue
            }
            let floor = tensor.hasPrefix("grad.") ? gradientFloor * largestGradient : 1e-30
            let error =
                zip(a.values, b.values).map { abs($0 - $1) }.largestMagnitude / max(b.values.largestMagnitude, floor)
            #expect(error <= bar, "\(name): \(tensor) is off by \(error)")
            if error.isNaN || error > worst.error { worst = (error, tensor) }
        }
        let label = ([name] + arguments + (ranks.map { ["mpirun -n \($0)"] } ?? [])).joined(separator: " ")
        print("golden: \(label): worst \(String(format: "%.1e", worst.error)) in \(worst.tensor)")
    }
}

extension [Double] {
    /// NaN if any element is.
    fileprivate var largestMagnitude: Double {
        reduce(0) { $1.isNaN || $0.isNaN ? .nan : Swift.max($0, abs($1)) }
    }
}
