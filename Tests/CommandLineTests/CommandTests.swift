import Foundation
import TestSupport
import Testing

/// The commands as a user meets them.
@Suite(.serialized) struct CommandTests {
    @Test func trainLearnsReportsAndSamples() throws {
        let space = try Workspace()
        let result = try space.run(
            nil,
            [
                "train.steps=120", "eval.every=40", "checkpoint.directory=\(space.path)/run", "checkpoint.every=40",
                "checkpoint.keep=2", "parallel.trace=2", "generate.prompt=the ", "generate.tokens=30",
                "--local-ranks", "2",
            ])
        #expect(result.output.hasPrefix("the "))
        #expect(result.errorOutput.contains("step 120/120"))
        #expect(result.errorOutput.contains("checkpoint \(space.path)/run/step-00000120"))
        #expect(
            space.list("run") == [
                "config.yaml", "latest", "metrics.jsonl", "step-00000080", "step-00000120", "timeline.svg",
                "trace.json",
            ])
        let lines = String(decoding: try space.bytes("run/metrics.jsonl"), as: UTF8.self).split(separator: "\n")
        let objects = try lines.map { try JSONSerialization.jsonObject(with: Data($0.utf8)) as! [String: Any] }
        #expect(objects.count == 120)
        let losses = objects.compactMap { $0["validation_loss"] as? Double }
        #expect(losses.count == 3 && losses[2] < losses[0] && losses[2] < 2.5, "\(losses)")
        let trace = try JSONSerialization.jsonObject(with: space.bytes("run/trace.json")) as! [String: Any]
        #expect((trace["traceEvents"] as! [Any]).count > 50)
        // The configuration with every default reads back.
        #expect(try Binary.run(["describe", space.path + "/run/config.yaml"], directory: space.path).status == 0)
    }

    @Test func evaluateAndGenerateAgreeOverRanks() throws {
        let space = try Workspace()
        let run = ["checkpoint.directory=\(space.path)/run"]
        try space.run(nil, run)
        let evaluations = try [1, 3].map { try space.run("eval", run + ["--local-ranks", "\($0)"]).output }
        #expect(evaluations[0] == evaluations[1])
        let sampling = [
            "--prompt", "ring ", "--tokens", "40", "--temperature", "0.9", "--top-k", "8", "--top-p", "0.95",
        ]
        let samples = try [1, 2, 4].map {
            try space.run("generate", run + sampling + ["--local-ranks", "\($0)"]).output
        }
        #expect(samples[0] == samples[1] && samples[1] == samples[2])
        #expect(samples[0].hasPrefix("ring ") && samples[0].count == 46)
        #expect(try space.run("generate", run + sampling + ["--seed", "2"]).output != samples[0])
    }

    @Test func describeAndPlan() throws {
        let space = try Workspace()
        let description = try space.run("describe").output
        #expect(description.contains("model.layers.1.self_attn.q_proj.weight"))
        #expect(description.contains("model.embed_tokens.weight (tied)"))
        let plan = try space.run("plan", ["--ranks", "3"]).output
        #expect(plan.contains("stage 2 on rank 2: layers"))
        #expect(plan.contains("rank 0  F0 F1 F2"))
        #expect(plan.contains("predicted bubble"))
    }

    /// A plan file and `parallel: auto` choose what the result does not show.
    @Test func plansAreFoundAndFollowed() throws {
        let space = try Workspace()
        let file = space.path + "/plan.yaml"
        let text = try space.run("plan", ["--ranks", "3", "--memory", "1GiB", "--out", file]).output
        #expect(text.contains("best layouts on 3 ranks"))
        // The file fixes micro-batches and chunks, which do show: one rank takes the same.
        let plan = try String(contentsOfFile: file, encoding: .utf8)
        let cut = plan.split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) }
            .filter { $0.hasPrefix("micro_batches:") || $0.hasPrefix("chunks:") }
            .map { "parallel." + $0.replacingOccurrences(of: ": ", with: "=") }
        #expect(cut.count == 2)
        try space.run(
            "probe",
            [
                "--plan", file, "parallel.replicas=1", "parallel.stages=auto", "parallel.partition=auto",
                "--local-ranks", "3", "--out", space.path + "/planned",
            ])
        try space.run("probe", cut + ["--out", space.path + "/alone"])
        #expect(try space.bytes("planned") == space.bytes("alone"))
        for ranks in ["2", "3"] {
            try space.run("probe", ["parallel.auto=true", "--local-ranks", ranks, "--out", space.path + "/auto"])
        }
        try space.run("probe", ["--out", space.path + "/reference"])
        #expect(try space.bytes("auto") == space.bytes("reference"))
        let little = try Binary.run(["plan", space.config, "--ranks", "2", "--memory", "10KiB"])
        #expect(little.status == 2 && little.errorOutput.contains("memory_limit 10.0 KiB"), "\(little.errorOutput)")
    }

    @Test func bench() throws {
        let space = try Workspace()
        let output = try space.run("bench", ["--json", "--steps", "4", "--warmup", "2", "--local-ranks", "2"]).output
        let object = try JSONSerialization.jsonObject(with: Data(output.utf8)) as! [String: Any]
        #expect(object["tokens_per_second"] as! Double > 0)
        #expect(object["ranks"] as! Int == 2)
        // Everything comes from the pool once warmed up, and the plan holds.
        #expect(object["buffer_allocations_after_warmup"] as! [Int] == [0, 0])
        for (measured, planned) in zip(object["peak_memory_bytes"] as! [Int], object["planned_memory_bytes"] as! [Int])
        {
            #expect(measured <= planned)
        }
    }

    @Test(arguments: [2, 3]) func selfTest(ranks: Int) throws {
        var results = [try Binary.run(["selftest", "--local-ranks", "\(ranks)"])]
        if Binary.mpirun != nil { results.append(try Binary.run(["selftest"], ranks: ranks)) }
        for result in results { #expect(result.status == 0, "\(result.output)\(result.errorOutput)") }
    }

    /// Looking ahead is no fault where the answer is not an input, and none where a mask stands for it; nor does it matter
    /// to speed.
    @Test func mixersThatLookAhead() throws {
        let space = try Workspace()
        let hydra = ["model.layers=[{mixer: {type: hydra, head_size: 12}}]", "train.steps=2"]
        for arguments in [["data={task: parity}"], ["train.objective={type: masked}"]] {
            try space.run(nil, hydra + arguments)
        }
        try space.run("bench", hydra + ["--warmup", "1", "--steps", "1"])
    }

    /// Every shipped configuration builds and describes; those whose data are here train a step.
    @Test func shippedConfigurations() throws {
        let root = Binary.packageRoot + "/configs"
        let files = (FileManager.default.enumerator(atPath: root)?.compactMap { $0 as? String } ?? [])
            .filter { $0.hasSuffix(".yaml") }.sorted()
        #expect(files.count >= 8)
        for file in files {
            let result = try Binary.run(
                ["plan", "\(root)/\(file)", "model.vocabulary_size=20000", "--ranks", "2", "--as-configured"],
                directory: Binary.packageRoot)
            #expect(result.status == 0, "\(file): \(result.errorOutput)")
        }
    }
}
