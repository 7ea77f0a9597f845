import Foundation
import TestSupport
import Testing

/// Commands that look into trained models: other depths, other chains of layers, students.
@Suite(.serialized) struct DepthCommandTests {
    /// A plain model of four layers on parity, a task with right and wrong answers.
    private static func config(_ layers: String, _ more: String = "") -> String {
        """
        data: { task: parity, bits: 3, evaluation_examples: 24 }
        model: { width: 16, positions: none, norm: layernorm, layers: [\(layers)] }
        train: { steps: 30, batch_size: 12, sequence_length: 13 }
        optimizer: { type: adamw, clip_norm: 1.0 }
        learning_rate: { peak: 5e-3 }
        parallel: { micro_batches: 2 }
        \(more)
        """
    }

    private static let block = "mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 24 }"
    private static let plain = "{ \(block), repeat: 4 }"

    private static func run(_ space: Workspace, _ arguments: [String], status: Int32 = 0) throws -> CommandResult {
        let result = try Binary.run(arguments, directory: space.path)
        try #require(result.status == status, "\(arguments): \(result.output)\(result.errorOutput)")
        return result
    }

    private static func teacher() throws -> Workspace {
        let space = try Workspace()
        try space.write("plain.yaml", config(plain))
        _ = try run(space, ["plain.yaml", "checkpoint.directory=teacher"])
        return space
    }

    /// The chain of all layers is the model, on streams with recurrent state too.
    @Test func theChainOfAllLayersIsTheModel() throws {
        let space = try Workspace()
        let run = ["checkpoint.directory=\(space.path)/run", "parallel.chunks=2"]
        try space.run(nil, run)
        let whole = try space.run("eval", run).output
        #expect(try space.run("depth-search", run + ["--path", "0,1,2,3,4"]).output == whole)
        let other = try space.run("depth-search", run + ["--path", "0,0,2,3,4"]).output
        #expect(other != whole && other.contains("nats/token"))
        let wrong = try space.attempt("depth-search", run + ["--path", "0,5"])
        #expect(wrong.status == 2 && wrong.errorOutput.contains("layer 5; the model has layers 0 to 4"))
        let ranks = try space.attempt("depth-search", run + ["--path", "0", "--local-ranks", "2"])
        #expect(ranks.status == 2 && ranks.errorOutput.contains("runs in one process"))
    }

    @Test func searchesChainsForEverySample() throws {
        let space = try Self.teacher()
        let command = [
            "depth-search", "plain.yaml", "--checkpoint", "teacher/step-00000030", "--samples", "10", "--simulations",
            "40", "--out",
        ]
        let summary = try Self.run(space, command + ["a.jsonl"]).output
        #expect(summary.contains("10 samples") && summary.contains("shorter where all layers are right"))
        _ = try Self.run(space, command + ["b.jsonl"])
        #expect(try space.bytes("a.jsonl") == space.bytes("b.jsonl"))
        let lines = try String(decoding: space.bytes("a.jsonl"), as: UTF8.self).split(separator: "\n").map {
            try JSONSerialization.jsonObject(with: Data($0.utf8)) as! [String: Any]
        }
        #expect(lines.map { $0["sample"] as! Int } == Array(0..<10))
        for line in lines {
            #expect((line["path"] as! [Int]).count == line["length"] as! Int)
            #expect(line["correct"] as! Bool || !(line["full_correct"] as! Bool))
        }
        #expect(lines.contains { ($0["length"] as! Int) < 4 })
    }

    /// From four layers to one block of two in two recursions, on any ranks; a run that goes on keeps its own weights.
    @Test func recursiveModelsStartFromPlainOnes() throws {
        let space = try Self.teacher()
        let layers = """
            { recursion: { count: 2, share_norms: false, relaxation: { rank: 16, targets: [q_proj, k_proj, v_proj, o_proj, \
            gate_proj, up_proj, down_proj] } }, layers: [{ \(Self.block), repeat: 2 }] }
            """
        try space.write("recursive.yaml", Self.config(layers))
        let source = "train.initialize_from={checkpoint: teacher, method: average}"
        for ranks in ["1", "3"] {
            _ = try Self.run(
                space, ["probe", "recursive.yaml", source, "--local-ranks", ranks, "--out", "probe\(ranks)"])
        }
        #expect(try space.bytes("probe1") == space.bytes("probe3"))
        let trained = try Self.run(
            space, ["recursive.yaml", source, "train.steps=1", "learning_rate.peak=0", "checkpoint.directory=run"])
        #expect(
            trained.errorOutput.contains("weights from teacher/step-00000030; shared block of 2 × 2 from layers 0-3"))
        // Corrections of full rank lose nothing, and a rate of nothing changes nothing.
        func loss(_ output: String) -> Double {
            Double(output.split(separator: "loss ")[1].split(separator: " ")[0])!
        }
        let evaluation = try Self.run(space, ["eval", "recursive.yaml", "checkpoint.directory=run"]).output
        let original = try Self.run(space, ["eval", "plain.yaml", "checkpoint.directory=teacher"]).output
        #expect(abs(loss(evaluation) - loss(original)) < 2e-5)
        let resumed = try Self.run(
            space, ["recursive.yaml", source, "train.steps=2", "learning_rate.peak=0", "checkpoint.directory=run"])
        #expect(!resumed.errorOutput.contains("weights from"))
        let missing = try Self.run(
            space, ["probe", "recursive.yaml", "train.initialize_from={checkpoint: nowhere}", "--out", "x"], status: 1)
        #expect(missing.errorOutput.contains("nowhere"))
    }

    @Test func tokensLeaveEarly() throws {
        let space = try Workspace()
        let layers = """
            { recursion: { count: 3, early_exit: {} }, layers: [{ repeat: 2, \(Self.block) }] }, { \(Self.block) }
            """
        try space.write(
            "exits.yaml",
            Self.config(layers).replacing(
                "task: parity, bits: 3, evaluation_examples: 24",
                with: "format: characters, text: text.txt"
            ).replacing("steps: 30", with: "steps: 2"))
        let trained = try Self.run(space, ["exits.yaml", "checkpoint.directory=run"])
        #expect(trained.errorOutput.contains(" exits "))
        let evaluation = try Self.run(space, ["eval", "exits.yaml", "checkpoint.directory=run"]).output
        #expect(evaluation.contains("lm_head exit_2_loss: "))
        let generate = ["generate", "exits.yaml", "checkpoint.directory=run", "--tokens", "9", "--prompt", "the "]
        let plain = try Self.run(space, generate)
        #expect(!plain.errorOutput.contains("iterations"))
        let whole = try Self.run(space, generate + ["--exit-threshold", "0", "--local-ranks", "3"])
        #expect(whole.output == plain.output && whole.errorOutput.contains("iterations per token: mean 3.00"))
        for rule in ["--exit-threshold 0.4", "--exit cosine --exit-slots 1 parallel.placement=ring"] {
            let ruled = generate + rule.split(separator: " ").map(String.init)
            let alone = try Self.run(space, ruled)
            #expect(alone.errorOutput.contains("iterations per token: mean "))
            #expect(try Self.run(space, ruled + ["--local-ranks", "2"]).output == alone.output)
            if Binary.mpirun != nil {
                #expect(try Binary.run(ruled, ranks: 2, directory: space.path).output == alone.output)
            }
        }
        let sure = ["--exit", "confidence", "--exit-threshold", "0", "--exit-minimum", "2", "--exit-cache", "full"]
        #expect(try Self.run(space, generate + sure).errorOutput.contains("iterations per token: mean 2.00"))
        let wrong = try Self.run(space, generate + sure + ["--local-ranks", "2"], status: 2)
        #expect(wrong.errorOutput.contains("generate.exit: criterion confidence asks the head"))
    }

    @Test func studentsLearnFromTeachers() throws {
        let space = try Self.teacher()
        let shared = """
            { recursion: { count: 3 }, layers: [{ \(Self.block), layer_scale: 0.3, depth_conditioning: true }] }, \
            { \(Self.block) }
            """
        try space.write("student.yaml", Self.config(shared, "distill: { teacher: teacher, block_steps: 10 }"))
        let result = try Self.run(
            space, ["distill", "student.yaml", "train.steps=20", "checkpoint.directory=run", "log.every=5"])
        #expect(result.errorOutput.contains("2 blocks for 4 layers: 0-2 | 3-3; 10 steps alone, 10 together"))
        #expect(result.output.contains("valid loss, nats/token: teacher "))
        #expect(space.exists("run/step-00000020/model.safetensors.index.json"))
        // The student is a model like any other.
        let evaluation = try Self.run(space, ["eval", "student.yaml", "checkpoint.directory=run"]).output
        let loss = evaluation.split(separator: "loss ")[1].split(separator: " ")[0]
        #expect(result.output.contains("student \(loss)"))
        // Interrupted and continued is the same.
        _ = try Self.run(
            space,
            ["distill", "student.yaml", "train.steps=20", "checkpoint.directory=parts", "checkpoint.every=7"])
        for name in ["step-00000014", "step-00000020"] {
            try FileManager.default.removeItem(atPath: "\(space.path)/parts/\(name)")
        }
        let resumed = try Self.run(
            space, ["distill", "student.yaml", "train.steps=20", "checkpoint.directory=parts"])
        #expect(resumed.errorOutput.contains("after step 7"))
        let (parts, whole) = (try space.checkpoint("parts/step-00000020"), try space.checkpoint("run/step-00000020"))
        #expect(parts.keys.sorted() == whole.keys.sorted())
        for (name, tensor) in whole { #expect(parts[name]?.values == tensor.values, "\(name)") }
        let phases = try Self.run(space, ["distill", "student.yaml", "--phases", "0"]).output
        #expect(phases == "layers 0-1: recursion: { count: 2 }\nlayers 2-3: recursion: { count: 2 }\n")
        let nobody = try Self.run(space, ["distill", "plain.yaml"], status: 2)
        #expect(nobody.errorOutput.contains("no 'distill' section"))
    }
}
