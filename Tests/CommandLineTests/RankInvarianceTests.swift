import Foundation
import Pipeline
import TestSupport
import Testing

/// Promise P1: nothing about ranks, threads, schedule, re-materialisation or transport shows in the result.
@Suite(.serialized) struct RankInvarianceTests {
    private static let variants: [[String]] = [
        ["--local-ranks", "2"],
        ["--local-ranks", "3", "parallel.schedule=gpipe"],
        ["--local-ranks", "4", "parallel.rematerialize=always"],
        ["--local-ranks", "7", "parallel.rematerialize=except_last"],
        ["--local-ranks", "3", "parallel.rematerialize=[1, 2, 4]", "parallel.threads=2"],
        ["--local-ranks", "2", "parallel.partition=[6, 1]", "parallel.schedule=gpipe"],
        ["parallel.threads=2"],
        ["parallel.schedule=gpipe", "parallel.rematerialize=always", "parallel.threads=1"],
    ]

    /// One file, the same bytes: parameters, gradients, logits, loss, final states.
    @Test(arguments: [1, 3]) func probeBytes(chunks: Int) throws {
        let space = try Workspace()
        let chunked = ["parallel.chunks=\(chunks)"]
        try space.run("probe", chunked + ["--out", space.path + "/reference"])
        let reference = try space.bytes("reference")
        for variant in Self.variants {
            try space.run("probe", chunked + variant + ["--out", space.path + "/variant"])
            #expect(try space.bytes("variant") == reference, "\(variant)")
        }
    }

    @Test(.enabled(if: Binary.mpirun != nil), arguments: [1, 2, 3, 4]) func probeBytesUnderMPI(ranks: Int) throws {
        let space = try Workspace()
        try space.run("probe", ["--out", space.path + "/reference"])
        for schedule in ["1f1b", "gpipe"] {
            try space.run("probe", ["parallel.schedule=\(schedule)", "--out", space.path + "/mpi"], ranks: ranks)
            #expect(try space.bytes("mpi") == space.bytes("reference"), "\(schedule)")
        }
    }

    /// Messages whose length only the sender knows, between real processes.
    @Test(.enabled(if: Binary.mpirun != nil), arguments: ["mor_expert", "mor_token"])
    func routedProbeBytesUnderMPI(name: String) throws {
        let space = try Workspace()
        func probe(_ out: String, _ arguments: [String], ranks: Int?) throws {
            let config = "\(Binary.packageRoot)/configs/recursion/\(name).yaml"
            let result = try Binary.run(["probe", config, "--out", "\(space.path)/\(out)"] + arguments, ranks: ranks)
            try #require(result.status == 0, "\(arguments): \(result.errorOutput)")
        }
        try probe("reference", [], ranks: nil)
        for arguments in [["parallel.schedule=zb_h1"], ["parallel.placement=ring", "parallel.schedule=interleaved"]] {
            try probe("mpi", arguments, ranks: 3)
            #expect(try space.bytes("mpi") == space.bytes("reference"), "\(arguments)")
        }
    }

    /// Masks and the two losses of a prefix, between real processes; interrupted and resumed on another number of them.
    @Test(.enabled(if: Binary.mpirun != nil)) func prefixObjectiveUnderMPI() throws {
        let space = try Workspace()
        let config = [
            "model.layers=[{repeat: 2, mixer: {type: jrt, head_count: 2, enc_length: 6}, mlp: {hidden_size: 16}}, {mixer: {type: gru}}]",
            "train.objective={type: prefix, length: 6}", "data.sampling=random", "checkpoint.every=10",
        ]
        try space.run(nil, config + ["checkpoint.directory=\(space.path)/whole"])
        let parts = config + ["checkpoint.directory=\(space.path)/parts"]
        try space.run(nil, parts, ranks: 3)
        try FileManager.default.removeItem(atPath: space.path + "/parts/step-00000020")
        try space.run(nil, parts, ranks: 2)
        try expectEqual(
            try space.checkpoint("parts/step-00000020"), try space.checkpoint("whole/step-00000020"), "resumed")
        #expect(try space.losses("parts") == space.losses("whole"))
        let metrics = String(decoding: try space.bytes("whole/metrics.jsonl"), as: UTF8.self)
        #expect(metrics.contains("auxiliary.masked_token"))
    }

    /// A sample of every schedule between real processes; the grid of sizes runs in process (`ScheduleInvarianceTests`).
    @Test(.enabled(if: Binary.mpirun != nil)) func everyScheduleUnderMPI() throws {
        let space = try Workspace()
        for (number, name) in ScheduleCatalog.names.enumerated() {
            let cut = ["parallel.chunks=\(1 + number % 3)"]
            try space.run("probe", cut + ["--out", space.path + "/reference"])
            let ranks = ScheduleCatalog.placementKind(name) == .contiguous ? 3 : 2
            try space.run(
                "probe", cut + ["parallel.schedule=\(name)", "--out", space.path + "/mpi"], ranks: ranks)
            #expect(try space.bytes("mpi") == space.bytes("reference"), "\(name)")
        }
    }

    /// Parameters, optimiser and stream state after 20 steps, and the losses on the way.
    @Test func trainingBits() throws {
        let space = try Workspace()
        try space.run(nil, ["checkpoint.directory=\(space.path)/reference"])
        let reference = try space.checkpoint("reference/step-00000020")
        #expect(reference.keys.contains("model.layers.0.mixer.weight_hh_l1"))
        #expect(reference.keys.contains("model.embed_tokens.weight.exp_avg_sq"))
        #expect(reference.keys.contains("carry.0.c"))
        var runs: [(name: String, ranks: Int?, arguments: [String])] = [
            ("threads", nil, ["parallel.threads=2"]),
            ("local", nil, ["--local-ranks", "4", "parallel.schedule=gpipe"]),
            ("recomputed", nil, ["--local-ranks", "3", "parallel.rematerialize=always"]),
        ]
        if Binary.mpirun != nil { runs += [("mpi2", 2, ["parallel.schedule=gpipe"]), ("mpi4", 4, [])] }
        for run in runs {
            try space.run(nil, run.arguments + ["checkpoint.directory=\(space.path)/\(run.name)"], ranks: run.ranks)
            try expectEqual(try space.checkpoint("\(run.name)/step-00000020"), reference, run.name)
            #expect(try space.losses(run.name) == space.losses("reference"), "\(run.name)")
        }
    }

    /// Interrupted at step 10 on four ranks, continued on two: the same bits as an undisturbed run on one.
    @Test func resumesOnAnotherNumberOfRanks() throws {
        let space = try Workspace()
        try space.run(nil, ["checkpoint.directory=\(space.path)/whole"])
        let isMPI = Binary.mpirun != nil
        let start = ["checkpoint.directory=\(space.path)/parts", "checkpoint.every=10"]
        try space.run(nil, start + (isMPI ? [] : ["--local-ranks", "4"]), ranks: isMPI ? 4 : nil)
        // What an interruption right after step 10 leaves behind.
        try FileManager.default.removeItem(atPath: space.path + "/parts/step-00000020")
        let resumed = try space.run(
            nil, start + ["parallel.schedule=gpipe"] + (isMPI ? [] : ["--local-ranks", "2"]), ranks: isMPI ? 2 : nil)
        #expect(resumed.errorOutput.contains("resumed from \(space.path)/parts/step-00000010 after step 10"))
        try expectEqual(
            try space.checkpoint("parts/step-00000020"), try space.checkpoint("whole/step-00000020"), "resumed")
        #expect(try space.losses("parts") == space.losses("whole"))
    }

    private func expectEqual(
        _ got: [String: StoredTensors.Entry], _ expected: [String: StoredTensors.Entry], _ name: String
    ) throws {
        #expect(got.keys.sorted() == expected.keys.sorted(), "\(name)")
        for (tensor, entry) in expected {
            #expect(
                got[tensor]?.shape == entry.shape && got[tensor]?.values == entry.values, "\(name): \(tensor)")
        }
    }
}
