import Foundation
import TestSupport
import Testing

/// Replicas under the command line: 2 × 2 ranks as threads and as processes give what one rank gives, within the
/// rounding of sums that are grouped by replica.
@Suite(.serialized) struct ReplicaInvarianceTests {
    /// Of a loss, and of a parameter relative to the root mean square of its tensor, after 20 steps.
    private static let tolerance = 1e-5

    /// Logits and states belong to a sample: they have the same bits. Gradients are sums.
    @Test(arguments: [["micro_batches=4"], ["micro_batches=5", "chunks=3"]]) func probe(shape: [String]) throws {
        let space = try Workspace()
        let shape = shape.map { "parallel.\($0)" }
        try space.run("probe", shape + ["--out", space.path + "/one"])
        let one = try StoredTensors(path: space.path + "/one")
        try space.run(
            "probe", shape + ["--local-ranks", "4", "parallel.replicas=2", "--out", space.path + "/two"])
        let two = try StoredTensors(path: space.path + "/two")
        #expect(two.names == one.names)
        for name in one.names where !name.hasPrefix("grad.") {
            #expect(two[name]!.values == one[name]!.values, "\(name)")
        }
        for name in one.names where name.hasPrefix("grad.") {
            #expect(Self.difference(one[name]!.values, two[name]!.values) < 1e-6, "\(name)")
        }
        // Processes or threads, the same bytes.
        guard Binary.mpirun != nil else { return }
        try space.run("probe", shape + ["parallel.replicas=2", "--out", space.path + "/mpi"], ranks: 4)
        #expect(try space.bytes("mpi") == space.bytes("two"))
    }

    @Test func training() throws {
        let space = try Workspace()
        func directory(_ name: String) -> String { "checkpoint.directory=\(space.path)/\(name)" }
        try space.run(nil, [directory("one")])
        try space.run(nil, [directory("local"), "parallel.replicas=2", "--local-ranks", "4"])
        let one = try space.losses("one")
        for (a, b) in zip(one, try space.losses("local")) {
            #expect(
                a.count == b.count && zip(a, b).allSatisfy { abs($0 - $1) <= Self.tolerance * abs($0) }, "\(a), \(b)")
        }
        let stored = try space.checkpoint("local/step-00000020")
        let expected = try space.checkpoint("one/step-00000020")
        #expect(stored.keys.sorted() == expected.keys.sorted())
        for (name, entry) in expected {
            #expect(stored[name]!.shape == entry.shape, "\(name)")
            guard !name.contains(".exp_avg") else { continue }
            #expect(Self.difference(entry.values, stored[name]!.values) < 1e-3, "\(name)")
        }
        guard Binary.mpirun != nil else { return }
        try space.run(nil, [directory("mpi"), "parallel.replicas=2", "parallel.schedule=gpipe"], ranks: 4)
        try space.run(nil, [directory("again"), "parallel.replicas=2", "checkpoint.every=10"], ranks: 4)
        for run in ["mpi", "again"] {
            #expect(try space.losses(run) == space.losses("local"), "\(run)")
            let tensors = try space.checkpoint("\(run)/step-00000020")
            for (name, entry) in stored { #expect(tensors[name]!.values == entry.values, "\(run): \(name)") }
        }
        // What an interruption right after step 10 leaves behind, continued by one process.
        try FileManager.default.removeItem(atPath: space.path + "/again/step-00000020")
        try space.run(nil, [directory("again"), "checkpoint.every=10"])
        for (a, b) in zip(one, try space.losses("again")) {
            #expect(zip(a, b).allSatisfy { abs($0 - $1) <= Self.tolerance * abs($0) }, "\(a), \(b)")
        }
    }

    /// Every rank of every replica ends up with the same texts and scores, and `bench` reports all ranks.
    @Test func otherCommands() throws {
        let space = try Workspace()
        let run = ["checkpoint.directory=\(space.path)/run"]
        try space.run(nil, run)
        let replicas = run + ["parallel.replicas=2", "--local-ranks", "4"]
        let scores = try [run, replicas].map { try space.run("eval", $0).output }
        #expect(scores[0] == scores[1])
        let texts = try [run, replicas].map {
            try space.run("generate", $0 + ["--prompt", "the ", "--tokens", "20"]).output
        }
        #expect(texts[0] == texts[1])

        let bench = try space.run(
            "bench", ["parallel.replicas=2", "--local-ranks", "4", "--warmup", "1", "--steps", "2", "--json"])
        let object = try JSONSerialization.jsonObject(with: Data(bench.output.utf8)) as! [String: Any]
        #expect(object["replicas"] as? Int == 2)
        let (peak, planned) = (object["peak_memory_bytes"] as! [Int], object["planned_memory_bytes"] as! [Int])
        #expect(peak.count == 4 && planned.count == 4)
        #expect(zip(peak, planned).allSatisfy { $0 <= $1 }, "\(peak), \(planned)")
        let plan = try space.run("plan", ["parallel.replicas=2", "--ranks", "4"]).output
        #expect(plan.hasPrefix("1f1b, 2 ranks in each of 2 replicas, 2 stages, 2 micro-batches"), "\(plan)")
    }

    /// Root mean square of the difference ÷ that of the reference.
    private static func difference(_ reference: [Double], _ values: [Double]) -> Double {
        let error = zip(reference, values).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
        let size = reference.reduce(0) { $0 + $1 * $1 }
        return size == 0 ? (error == 0 ? 0 : .infinity) : (error / size).squareRoot()
    }
}
