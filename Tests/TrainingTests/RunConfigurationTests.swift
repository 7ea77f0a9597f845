import Models
import Pipeline
import Testing
import Training

@Suite struct RunConfigurationTests {
    private static let base = """
        train: { steps: 10, batch_size: 6, sequence_length: 8 }
        learning_rate: { peak: 1e-3 }

        """

    private func read(_ text: String, base: String = base) throws -> RunConfiguration {
        let reader = try ConfigurationReader(YAMLConfiguration.parse(base + text, file: "a.yaml"))
        let run = try RunConfiguration(reader)
        try reader.finish()
        return run
    }

    @Test func defaultsDoNotDependOnTheMachine() throws {
        let run = try read("")
        #expect(run.seed == 1)
        #expect(run.parallel.microBatches == 6, "eight, or the batch size if smaller")
        #expect(run.parallel.schedule == .named("1f1b"))
        #expect(run.parallel.chunks == 1)
        #expect(run.parallel.stages == nil && run.parallel.threads == nil && run.parallel.partition == .estimated)
        #expect(run.parallel.rematerialization == .never && run.parallel.rematerializedLayers.isEmpty)
        #expect(run.optimizer.kind == .adamw && run.optimizer.clipNorm == nil)
        #expect(run.checkpoint.directory == nil && run.checkpoint.keep == 3 && run.checkpoint.resumes)
        #expect(run.eval.every == 0 && run.logEvery == 10 && run.generate == nil)
        let large = Self.base.replacing("batch_size: 6", with: "batch_size: 64")
        #expect(try read("", base: large).parallel.microBatches == 8)
    }

    @Test func sectionsAreRead() throws {
        let run = try read(
            """
            parallel: { micro_batches: 3, chunks: 2, rematerialize: [1, 2], partition: [2, 3], memory_limit: 512MiB, stages: 2 }
            checkpoint: { directory: runs/a, every: 5, resume: never }
            generate: { prompt: "Th", tokens: 7, temperature: 0.5, top_k: 3, top_p: 0.9, seed: 4, exit: { criterion: kl, cache: full, slots: 2 } }
            """)
        #expect(run.parallel.rematerializedLayers == [1, 2])
        #expect(run.parallel.partition == .explicit([2, 3]))
        #expect(run.parallel.memoryLimit == 512 << 20)
        #expect(run.checkpoint.directory == "runs/a" && !run.checkpoint.resumes)
        #expect(run.generate?.exit == ExitRule(.kl, threshold: 1e-3, cache: .full, minimum: 1, slots: 2))
        #expect(run.generate?.sampling == SamplingOptions(temperature: 0.5, topK: 3, topP: 0.9, seed: 4))
    }

    @Test(arguments: [("8GiB", 8 << 30), ("1.5GiB", 3 << 29), ("2KiB", 2048), ("123456", 123_456), ("1e6", 1_000_000)])
    func memorySizesAreRead(text: String, bytes: Int) throws {
        #expect(try read("parallel: { memory_limit: \(text) }").parallel.memoryLimit == bytes)
    }

    @Test(arguments: [
        (
            "parallel: { micro_batches: 0 }",
            "a.yaml:3:28: 'parallel.micro_batches' must be an integer from 1 to 1000000; found '0'"
        ),
        (
            "parallel: { micro_batches: 7 }",
            "a.yaml:3:28: 'parallel.micro_batches': 7 micro-batches cannot be cut from train.batch_size 6; use at most 6"
        ),
        (
            "parallel: { schedule: 1f2b }",
            "a.yaml:3:23: 'parallel.schedule' must be one of gpipe, 1f1b, interleaved, breadth_first, zb_interleaved, zb_h1, zb_h2, zb_v, v_half, v_min, dualpipe_v; found '1f2b'; did you mean '1f1b'?"
        ),
        (
            "parallel: { memory_limit: 8GB }",
            "a.yaml:3:27: 'parallel.memory_limit': '8GB' is not an amount of memory; write 8GiB, 512MiB or a number of bytes"
        ),
        (
            "parallel: { memory_limit: -1 }",
            "a.yaml:3:27: 'parallel.memory_limit': '-1' is not an amount of memory; write 8GiB, 512MiB or a number of bytes"
        ),
        (
            "parallel: { rematerialize: sometimes }",
            "a.yaml:3:28: 'parallel.rematerialize' must be one of never, always, except_last; found 'sometimes'"
        ),
        (
            "parallel: { stages: 0 }",
            "a.yaml:3:21: 'parallel.stages' must be 'auto' or an integer from 1 to 65535; found '0'"
        ),
        (
            "parallel: { microbatches: 2 }",
            "a.yaml:3:13: unknown key 'microbatches' in 'parallel'; did you mean 'micro_batches'? allowed: stages, virtual_stages, placement, rings, schedule, replicas, micro_batches, chunks, threads, partition, memory_limit, deadline_seconds, trace, auto, rematerialize"
        ),
        ("checkpoint: { resume: yes }", "a.yaml:3:23: 'checkpoint.resume' must be one of auto, never; found 'yes'"),
        (
            "generate: { top_p: 1.5 }",
            "a.yaml:3:20: 'generate.top_p' must be a number at least 0.0 and at most 1.0; found '1.5'"
        ),
    ])
    func badValuesAreExplained(text: String, expected: String) {
        let got = message { _ = try read(text) }
        #expect(got == expected)
    }

    @Test func missingKeysAreNamed() {
        #expect(
            message { _ = try read("", base: "train: { steps: 1 }\n") }
                == "a.yaml:1:8: missing key 'batch_size' in 'train'; expected an integer from 1 to 1000000; add 'batch_size: ...' there"
        )
    }
}
