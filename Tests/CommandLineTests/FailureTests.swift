import Foundation
import Glibc
import TestSupport
import Testing

/// Promise P4: what goes wrong is named, with the remedy, and ends every rank; what was saved stays.
@Suite(.serialized) struct FailureTests {
    /// Arguments, exit status, and the whole message; `$` stands for the working directory.
    static let mistakes: [(arguments: [String], status: Int32, message: String)] = [
        (
            ["train.stepz=3"], 2,
            "seqtrain: command line override 'train.stepz=3': unknown key 'stepz' in 'train'; did you mean 'steps'? allowed: steps, batch_size, sequence_length, initialize_from, objective"
        ),
        (
            ["train.steps=many"], 2,
            "seqtrain: command line override 'train.steps=many': 'train.steps' must be an integer from 0 to 1000000000; found 'many'"
        ),
        (
            ["parallel.micro_batches=0"], 2,
            "seqtrain: command line override 'parallel.micro_batches=0': 'parallel.micro_batches' must be an integer from 1 to 1000000; found '0'"
        ),
        (
            ["parallel.micro_batches=7"], 2,
            "seqtrain: command line override 'parallel.micro_batches=7': 'parallel.micro_batches': 7 micro-batches cannot be cut from train.batch_size 6; use at most 6"
        ),
        (
            ["data.text=missing.txt"], 1,
            "seqtrain: data: no file matches 'missing.txt'; tried $/missing.txt and missing.txt; paths start at the configuration file's directory, then at the current one"
        ),
        (
            ["--local-ranks", "8"], 2,
            "seqtrain: 8 stages cannot be cut from 7 layers (embedding and head included); use at most 7 ranks, or more layers"
        ),
        (
            ["--local-ranks", "2", "parallel.stages=3"], 2,
            "seqtrain: the plan has 3 stages but the job has 2 ranks; start 3 ranks (mpirun -n 3, or --local-ranks 3), or set parallel.stages=auto"
        ),
        (
            ["parallel.memory_limit=100KiB"], 2,
            "seqtrain: parallel.memory_limit 100.0 KiB per rank"
        ),
        (
            recursive("count: 3, relaxation: { rank: 2, targets: [gate_proj] }"), 2,
            "seqtrain: command line override 'model.layers=[\(recursion("count: 3, relaxation: { rank: 2, targets: [gate_proj] }"))]': 'model.layers[0].recursion.relaxation': no layer of the block has a matrix that 'targets' names; name others, or remove the section"
        ),
        (
            recursive("count: 10000"), 2,
            "seqtrain: command line override 'model.layers=[\(recursion("count: 10000"))]': 'model.layers[0].recursion': the model comes to 20000 blocks as applied; at most 10000 are possible"
        ),
        (
            ["model.layers=[{ recursion: { count: 3 }, layers: [] }]"], 2,
            "seqtrain: command line override 'model.layers=[{ recursion: { count: 3 }, layers: [] }]': 'model.layers[0].layers': a shared block needs a layer at least"
        ),
        (
            ["parallel.rings=2", "--local-ranks", "2"], 2,
            "seqtrain: command line override 'parallel.rings=2': 'parallel.rings': only placement: ring has rings; set that, or remove the key"
        ),
        (
            ["parallel.placement=ring", "--local-ranks", "2"], 2,
            "seqtrain: parallel.placement is ring, which needs a model with one shared block (a group of layers with a 'recursion' section, sharing: cycle); this one has none; leave placement out"
        ),
        (
            recursive("count: 3") + ["parallel.placement=ring", "--local-ranks", "7"], 2,
            "seqtrain: 7 ranks cannot form rings for a shared block of 2 layers in 3 recursions: each ring needs equally many ranks, at most one per layer, and a recursion of its own; start 6 ranks, or use another placement"
        ),
        (
            recursive("count: 3") + ["parallel.placement=ring", "parallel.rings=3"], 2,
            "seqtrain: 1 rank cannot form 3 rings for a shared block of 2 layers in 3 recursions: each ring needs equally many ranks, at most one per layer, and a recursion of its own; set parallel.rings to 1"
        ),
        (
            recursive("count: 3, router: {}") + ["parallel.chunks=2"], 2,
            "seqtrain: parallel.chunks is 2, but layer 'model.layers.0.mor_router' cannot be cut in time: a router of type expert compares the tokens of a whole sequence; set parallel.chunks=1"
        ),
        (
            ["checkpoint.directory=$/text.txt/run"], 1,
            "seqtrain: "
        ),
        (
            [
                "--local-ranks", "2", "learning_rate.peak=1e6", "learning_rate.warmup_steps=0",
                "optimizer.clip_norm=null",
            ], 1,
            "seqtrain: step 2: "
        ),
        // Models that would see what they are to predict.
        (
            ["model.layers=[{mixer: {type: hydra, head_size: 12}}]"], 2,
            "seqtrain: command line override 'model.layers=[{mixer: {type: hydra, head_size: 12}}]': 'model.layers': layer 'model.layers.0' sees tokens that it is to predict; use causal mixers, or set train.objective={type: masked}"
        ),
        (
            ["model.layers=[{mixer: {type: gru, bidirectional: true, output_projection: true}}]"], 2,
            "seqtrain: command line override 'model.layers=[{mixer: {type: gru, bidirectional: true, output_projection: true}}]': 'model.layers': layer 'model.layers.0' sees tokens that it is to predict; use causal mixers, or set train.objective={type: masked}"
        ),
        (
            ["model.layers=[{mixer: {type: hydra, head_size: 12}}]", "train.objective={type: prefix, length: 6}"], 2,
            "seqtrain: command line override 'model.layers=[{mixer: {type: hydra, head_size: 12}}]': 'model.layers': layer 'model.layers.0' sees tokens that it is to predict; use causal mixers, or set train.objective={type: masked}"
        ),
        (
            [
                "model.layers=[{mixer: {type: hydra, head_size: 12}}]", "train.objective={type: masked}",
                "generate={prompt: a}",
            ], 2, "seqtrain: cannot generate text: 'model.layers.0' reads tokens that follow; use causal mixers"
        ),
        (
            ["model.layers=[{mixer: {type: hydra, head_size: 12}}]", "data={task: reverse}"], 2,
            "seqtrain: command line override 'model.layers=[{mixer: {type: hydra, head_size: 12}}]': 'model.layers': layer 'model.layers.0' sees tokens that it is to predict; use causal mixers for this task"
        ),
        (
            [
                "model.layers=[{mixer: {type: gru}}, {mixer: {type: jrt, head_count: 2, enc_length: 6}}]",
                "data.sampling=random",
            ], 2,
            "seqtrain: command line override 'model.layers=[{mixer: {type: gru}}, {mixer: {type: jrt, head_count: 2, enc_length: 6}}]': 'model.layers': layer 'model.layers.1' sees tokens of its prefix that it is to predict; set train.objective={type: prefix, length: 6}"
        ),
        (
            [
                "model.layers=[{mixer: {type: gru}}, {mixer: {type: jrt, head_count: 2, enc_length: 6}}]",
                "data.sampling=random", "train.objective={type: prefix, length: 5}",
            ], 2,
            "seqtrain: command line override 'model.layers=[{mixer: {type: gru}}, {mixer: {type: jrt, head_count: 2, enc_length: 6}}]': 'model.layers': layer 'model.layers.1' reads a prefix of 6 tokens, but train.objective.length is 5; make them equal"
        ),
        (
            [
                "model.layers=[{mixer: {type: gru}}, {mixer: {type: jrt, head_count: 2, enc_length: 6}}]",
                "train.objective={type: prefix, length: 6}",
            ], 2,
            "seqtrain: command line override 'model.layers=[{mixer: {type: gru}}, {mixer: {type: jrt, head_count: 2, enc_length: 6}}]': 'model.layers': layer 'model.layers.1' reads the first 6 tokens of a sequence, but streams go on from batch to batch; set data.sampling=random"
        ),
        (
            ["train.objective={type: prefix, length: 22}"], 2,
            "seqtrain: command line override 'train.objective={type: prefix, length: 22}': 'train.objective.length': a prefix of 22 leaves nothing of train.sequence_length 22; make it shorter"
        ),
        (
            ["data={task: parity}", "train.objective={type: masked}"], 2,
            "seqtrain: command line override 'train.objective={type: masked}': 'train.objective': a task has targets of its own; remove the key, or train on text"
        ),
    ]

    /// A model of one shared block, two recurrent layers.
    private static func recursive(_ keys: String) -> [String] { ["model.layers=[\(recursion(keys))]"] }
    private static func recursion(_ keys: String) -> String {
        "{ recursion: { \(keys) }, layers: [{ repeat: 2, mixer: { type: gru } }] }"
    }

    @Test(arguments: mistakes.indices) func message(_ index: Int) throws {
        let (arguments, status, message) = Self.mistakes[index]
        let space = try Workspace()
        func filled(_ text: String) -> String { text.replacingOccurrences(of: "$", with: space.path) }
        let result = try space.attempt(nil, arguments.map(filled))
        #expect(result.status == status, "\(result.errorOutput)")
        let last = result.errorOutput.split(separator: "\n").last.map(String.init) ?? ""
        let isWhole = message.count > 60
        #expect(isWhole ? last == filled(message) : last.hasPrefix(filled(message)), "\(last)")
    }

    @Test func usage() throws {
        #expect(try Binary.run([]).status == 2)
        #expect(try Binary.run(["--help"]).status == 0)
        let variant = try Binary.run(["selftest"], environment: ["SEQTRAIN_ISA": "sse9"])
        #expect(variant.status == 2)
        #expect(
            variant.errorOutput
                == "seqtrain: SEQTRAIN_ISA=sse9 is not known; expected one of portable, avx2, avx512\n")
        let missing = try Binary.run(["/nowhere/a.yaml"])
        #expect(missing.status == 2)
        #expect(
            missing.errorOutput
                == "seqtrain: /nowhere/a.yaml: no such file; check the path (relative paths start at the current directory)\n"
        )
        let directory = try Binary.run([NSTemporaryDirectory()])
        #expect(directory.status == 2 && directory.errorOutput.contains("directory"), "\(directory.errorOutput)")
    }

    @Test(.enabled(if: geteuid() != 0, "root may read everything")) func unreadableDirectory() throws {
        let space = try Workspace()
        try FileManager.default.createDirectory(atPath: space.path + "/closed", withIntermediateDirectories: false)
        chmod(space.path + "/closed", 0)
        defer { chmod(space.path + "/closed", 0o700) }
        let result = try space.attempt(nil, ["checkpoint.directory=\(space.path)/closed/run"])
        #expect(result.status == 1 && result.errorOutput.contains("ermission"), "\(result.errorOutput)")
    }

    @Test func noSpaceLeft() throws {
        let space = try Workspace()
        let result = try space.attempt("probe", ["--local-ranks", "2", "--out", "/dev/full"])
        #expect(
            result.status == 1 && result.errorOutput.contains("/dev/full: cannot write: no space left on the device"),
            "\(result.errorOutput)")
    }

    /// A mistake under mpirun: said once, and the launcher passes the status on.
    @Test(.enabled(if: Binary.mpirun != nil)) func mistakeUnderMPI() throws {
        let space = try Workspace()
        let result = try space.attempt(nil, ["parallel.stages=3"], ranks: 2)
        #expect(result.status == 2)
        #expect(result.errorOutput.components(separatedBy: "the plan has 3 stages").count == 2, "\(result.errorOutput)")
    }

    @Test func damagedCheckpoint() throws {
        let space = try Workspace()
        let run = ["checkpoint.directory=\(space.path)/run", "checkpoint.every=10"]
        try space.run(nil, run)
        let file = "run/step-00000020/" + space.list("run/step-00000020").first { $0.hasPrefix("model-") }!
        let whole = try space.bytes(file)
        try whole.prefix(whole.count / 2).write(to: URL(fileURLWithPath: space.path + "/" + file))
        let truncated = try space.attempt("eval", run + ["--local-ranks", "3"])
        #expect(truncated.status == 1)
        #expect(
            truncated.errorOutput.contains(
                "checkpoint \(space.path)/run/step-00000020: ")
                && truncated.errorOutput.contains(
                    "remove \(space.path)/run/step-00000020 to resume from the checkpoint before it"),
            "\(truncated.errorOutput)")

        var flipped = whole
        flipped[flipped.count - 1] ^= 1
        try flipped.write(to: URL(fileURLWithPath: space.path + "/" + file))
        #expect(try space.attempt("eval", run).status == 1)

        // The advice works.
        try FileManager.default.removeItem(atPath: space.path + "/run/step-00000020")
        #expect(try space.run("eval", run).output.hasPrefix("valid step 10: loss "))
    }

    @Test func otherVocabularyModelOrOptimizer() throws {
        let space = try Workspace()
        let run = ["checkpoint.directory=\(space.path)/run"]
        try space.run(nil, run + ["train.steps=2"])
        try space.write("other.txt", String(repeating: "pack my box with five dozen jugs ", count: 200))
        let vocabulary = try space.attempt(nil, run + ["data.text=other.txt"])
        #expect(vocabulary.status == 1)
        #expect(
            vocabulary.errorOutput.contains("vocabulary mismatch: the checkpoint has")
                && vocabulary.errorOutput.contains("use the data the checkpoint was trained on"),
            "\(vocabulary.errorOutput)")
        let model = try space.attempt(nil, run + ["model.width=48"])
        #expect(
            model.status == 1 && model.errorOutput.contains("it belongs to another model"), "\(model.errorOutput)")
        let optimizer = try space.attempt(nil, run + ["optimizer.type=sgd"])
        #expect(
            optimizer.status == 1
                && optimizer.errorOutput.contains("was written with optimizer.type adamw, the run has sgd"),
            "\(optimizer.errorOutput)")
        let restart = try space.attempt(nil, run + ["checkpoint.resume=never"])
        #expect(restart.status == 2 && restart.errorOutput.contains("already holds step-00000002"))
    }

    /// A killed rank takes the job with it within seconds; the last complete checkpoint loads.
    @Test(.enabled(if: Binary.mpirun != nil)) func killedRank() throws {
        let space = try Workspace()
        let run = ["checkpoint.directory=\(space.path)/run", "checkpoint.every=2", "eval.every=0"]
        let job = try Binary.start([space.config, "train.steps=1000000"] + run, ranks: 4)
        try waitUntil("a checkpoint") { space.exists("run/step-00000004") }
        let victim = job.descendants(named: "seqtrain")[2]
        let start = ContinuousClock.now
        kill(victim, SIGKILL)
        let result = job.wait(timeout: 30)
        #expect(!result.timedOut && result.status != 0)
        #expect(ContinuousClock.now - start < .seconds(10))
        #expect(job.descendants(named: "seqtrain").isEmpty)
        #expect(try space.run("eval", run).output.hasPrefix("valid step "))
    }

    /// What batch systems send before they kill: a checkpoint, status 75, and the run goes on from there.
    @Test(arguments: [nil, Binary.mpirun == nil ? nil : 2]) func preempted(ranks: Int?) throws {
        let space = try Workspace()
        let run = ["checkpoint.directory=\(space.path)/run", "eval.every=0"]
        let job = try Binary.start([space.config, "train.steps=1000000"] + run, ranks: ranks)
        try waitUntil("training") {
            job.errorOutputSoFar.contains("step      10") || job.errorOutputSoFar.contains("step 10")
                || job.errorOutputSoFar.contains(" 10/1000000")
        }
        if ranks == nil {
            job.signal(SIGTERM)
        } else {
            // Batch systems signal the processes, and one that hears it is enough.
            kill(job.descendants(named: "seqtrain").last!, SIGTERM)
        }
        let result = job.wait(timeout: 30)
        #expect(result.status == 75, "\(result.errorOutput)")
        #expect(result.errorOutput.contains("stopped by a signal after step"))
        let saved = try #require(space.list("run").first { $0.hasPrefix("step-") })
        let step = Int(saved.dropFirst(5))!
        try space.run(nil, run + ["train.steps=\(step + 1)"])
        #expect(space.list("run").filter { $0.hasPrefix("step-") }.count == 2)
    }

    private func waitUntil(_ what: String, _ condition: () -> Bool) throws {
        for _ in 0..<1500 {
            if condition() { return }
            usleep(20_000)
        }
        Issue.record("no \(what) within 30 s")
    }
}
