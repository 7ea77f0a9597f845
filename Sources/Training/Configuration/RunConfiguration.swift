import Models
import Pipeline

/// Everything a run is told, but for the `model` and `data` sections, which their owners read.
///
/// ```yaml
/// seed: 1
/// train: { steps: 2000, batch_size: 12, sequence_length: 64 }
/// optimizer: { type: adamw, betas: [0.9, 0.95], epsilon: 1e-8, weight_decay: 0.1, clip_norm: 1.0 }
/// learning_rate: { schedule: cosine, peak: 1e-3, warmup_steps: 100, minimum: 1e-4 }
/// parallel: { stages: auto, schedule: 1f1b, micro_batches: 4 }
/// checkpoint: { directory: runs/example, every: 500, keep: 3 }
/// eval: { every: 200, batches: 20 }
/// log: { every: 10 }
/// generate: { prompt: "The ", tokens: 200 }
/// ```
public struct RunConfiguration: Sendable {
    public var seed: UInt64
    public var train: TrainSection
    public var optimizer: OptimizerConfiguration
    public var learningRate: LearningRateSchedule
    public var parallel: ParallelSection
    public var checkpoint: CheckpointSection
    public var eval: EvalSection
    /// `log.every`: steps between progress lines.
    public var logEvery: Int
    /// Absent: no sample at the end.
    public var generate: GenerateSection?
    /// What `seqtrain distill` needs; other commands leave it alone.
    public var distillation: DistillationConfiguration?

    /// `train:`
    public struct TrainSection: Sendable {
        /// Optimiser steps of the whole run, 0 or more.
        public var steps: Int
        /// Sequences per step, over all micro-batches.
        public var batchSize: Int
        /// Tokens per sequence.
        public var sequenceLength: Int
        /// `initialize_from`: a checkpoint to start from instead of random weights.
        public var initialization: InitializationConfiguration?
        /// `objective`: what is to be predicted in text.
        public var objective: TrainingObjective
    }

    /// `parallel:`
    public struct ParallelSection: Sendable {
        /// `stages`: nil for `auto`, the number of ranks ÷ replicas.
        public var stages: Int?
        public var schedule: ScheduleChoice
        /// `virtual_stages`: stages per rank; nil leaves it to the schedule.
        public var virtualStages: Int?
        /// `placement`: nil is the schedule's own. `ring` lays a shared block on the ranks once, and micro-batches go
        /// round.
        public var placement: PlacementKind?
        /// `rings`: into how many rings the ranks of placement `ring` form, each with the whole shared block; nil for
        /// `auto`, as few as give every rank a layer of the block.
        public var rings: Int?
        /// `replicas`: how many pipelines share out the micro-batches of every batch (data parallelism). They sum
        /// their gradients while the pipelines drain, and each keeps the optimiser's state of its share of every
        /// parameter (ZeRO-1). Units of work, and so their losses, are those of one pipeline; sums over the batch are
        /// grouped by replica, which shows in their last bits.
        public var replicas: Int
        /// `micro_batches`, over all replicas: default 8, or the batch size if smaller. Never derived from the number of
        /// ranks, so that the result does not depend on it.
        public var microBatches: Int
        public var chunks: Int
        /// Whole stages recomputed by the schedule ...
        public var rematerialization: Rematerialization
        /// ... or only these layers, by position in the model (`rematerialize: [1, 2]`).
        public var rematerializedLayers: [Int]
        /// `threads`: nil for `auto`, the cores of the node ÷ the ranks on it.
        public var threads: Int?
        /// `partition`: `auto` cuts by estimated FLOPs, `measured` by a short profile of every layer, and a list
        /// gives the number of layers of each stage.
        public var partition: PartitionRule
        /// `memory_limit`, bytes per rank.
        public var memoryLimit: Int?
        /// `deadline_seconds`: how long an action may wait before the job ends.
        public var deadlineSeconds: Double
        /// `auto`: choose what the section leaves open and the result does not show by measuring and simulating.
        /// `parallel: auto` is short for `parallel: { auto: true }`.
        public var isAutomatic: Bool
        /// The keys that the section sets.
        fileprivate var givenKeys: Set<String>
        /// `trace`: steps whose actions are recorded into `trace.json`.
        public var traceSteps: Int
    }

    /// `parallel.schedule`: a name, or the path of a schedule file, relative to the configuration's folder.
    public enum ScheduleChoice: Sendable, Equatable, CustomStringConvertible {
        case named(String)
        case file(String)

        public var description: String {
            switch self {
            case .named(let name): name
            case .file(let path): path
            }
        }
    }

    public enum PartitionRule: Sendable, Equatable {
        case estimated, measured
        case explicit([Int])
    }

    /// `checkpoint:`
    public struct CheckpointSection: Sendable {
        /// Run directory: checkpoints, metrics, resolved configuration. Nil: nothing is written.
        public var directory: String?
        /// Steps between checkpoints; the last step always writes one. 0: only the last.
        public var every: Int
        /// How many complete checkpoints stay.
        public var keep: Int
        /// `resume: auto` continues from `latest` when there is one; `never` refuses to start over it.
        public var resumes: Bool
    }

    /// `eval:`
    public struct EvalSection: Sendable {
        /// Steps between validations; 0: none.
        public var every: Int
        /// Validation batches; nil: the whole split.
        public var batches: Int?
        /// `routing`: how routers of type `expert` choose tokens: `causal`, as in generation, so that the loss is that of a
        /// language model; `ranked`, as in training, by comparing a token with later ones.
        public var routing: Routing

        public enum Routing: String, CaseIterable, Sendable { case causal, ranked }
    }

    /// `generate:`
    public struct GenerateSection: Sendable {
        public var prompt: String
        public var tokens: Int
        /// Independent texts, made at the same time; as many as ranks keep all of them busy.
        public var samples: Int
        public var sampling: SamplingOptions
        /// `exit`: when tokens leave out applications of a shared block; nil: never.
        public var exit: ExitRule?

        /// What `seqtrain generate` does when neither file nor command line says anything.
        public static let standard = GenerateSection(
            prompt: "", tokens: 200, samples: 1, sampling: SamplingOptions())
    }

    /// - Parameter directory: of the configuration file; relative paths start there.
    public init(_ reader: ConfigurationReader, directory: String = ".") throws(ConfigurationError) {
        seed = UInt64(try reader.int("seed", default: 1, in: 0...Int.max))

        let train = try reader.section("train")
        let steps = try train.int("steps", default: nil, in: 0...1_000_000_000)
        let batchSize = try train.int("batch_size", default: nil, in: 1...1_000_000)
        let sequenceLength = try train.int("sequence_length", default: nil, in: 1...100_000_000)
        self.train = TrainSection(
            steps: steps, batchSize: batchSize, sequenceLength: sequenceLength,
            initialization: train.has("initialize_from")
                ? try InitializationConfiguration(try train.section("initialize_from"), directory: directory) : nil,
            objective: try TrainingObjective(try train.section("objective"), sequenceLength: sequenceLength))

        optimizer = try OptimizerConfiguration(try reader.section("optimizer"))
        learningRate = try LearningRateSchedule(try reader.section("learning_rate"), steps: self.train.steps)
        parallel = try ParallelSection(
            try reader.section("parallel"), batchSize: self.train.batchSize, directory: directory)

        let checkpoint = try reader.section("checkpoint")
        self.checkpoint = CheckpointSection(
            directory: try checkpoint.optionalString("directory"),
            every: try checkpoint.int("every", default: 0, in: 0...Int.max),
            keep: try checkpoint.int("keep", default: 3, in: 1...1_000_000),
            resumes: try checkpoint.choice("resume", of: ["auto", "never"], default: "auto") == "auto")

        let eval = try reader.section("eval")
        self.eval = EvalSection(
            every: try eval.int("every", default: 0, in: 0...Int.max),
            batches: try eval.optionalInt("batches", in: 1...Int.max),
            routing: try eval.choice("routing", default: .causal))

        logEvery = try reader.section("log").int("every", default: 10, in: 1...Int.max)
        generate = reader.has("generate") ? try GenerateSection(try reader.section("generate")) : nil
        distillation =
            reader.has("distill")
            ? try DistillationConfiguration(
                try reader.section("distill"), directory: directory, steps: self.train.steps) : nil
    }
}

extension RunConfiguration.ParallelSection {
    init(_ reader: ConfigurationReader, batchSize: Int, directory: String) throws(ConfigurationError) {
        stages = try reader.intOrAuto("stages", in: 1...65_535)
        virtualStages = try reader.optionalInt("virtual_stages", in: 1...65_535)
        placement =
            reader.has("placement")
            ? try reader.choice("placement", as: PlacementKind.self, default: .contiguous) : nil
        rings = try reader.intOrAuto("rings", in: 1...65_535)
        schedule = try Self.schedule(reader, directory, default: placement == .ring ? "interleaved" : "1f1b")
        replicas = try reader.int("replicas", default: 1, in: 1...65_535)
        microBatches = try reader.int("micro_batches", default: min(8, batchSize), in: 1...1_000_000)
        if microBatches > batchSize {
            throw reader.error(
                "micro_batches",
                "\(microBatches) micro-batches cannot be cut from train.batch_size \(batchSize); use at most \(batchSize)"
            )
        }
        if replicas > microBatches {
            throw reader.error(
                "replicas",
                "\(replicas) replicas cannot share out \(microBatches) micro-batches; use at most \(microBatches), or raise micro_batches"
            )
        }
        chunks = try reader.int("chunks", default: 1, in: 1...65_535)
        threads = try reader.intOrAuto("threads", in: 1...4096)
        partition = try Self.partition(reader)
        memoryLimit = try Self.bytes(reader, "memory_limit")
        deadlineSeconds = try reader.double("deadline_seconds", default: 600, above: 0)
        traceSteps = try reader.int("trace", default: 0, in: 0...1_000_000)
        isAutomatic = try reader.bool("auto", default: false)
        if rings != nil, placement != .ring, !isAutomatic {
            throw reader.error("rings", "only placement: ring has rings; set that, or remove the key")
        }
        givenKeys = Set(
            ["stages", "replicas", "schedule", "placement", "virtual_stages", "rematerialize", "partition"].filter {
                reader.has($0)
            })

        rematerializedLayers = []
        if reader.isList("rematerialize") {
            rematerialization = .never
            rematerializedLayers = try reader.intList("rematerialize", in: 0...1_000_000)
        } else {
            rematerialization = try reader.choice("rematerialize", as: Rematerialization.self, default: .never)
        }
    }

    /// Whether no list of layers per stage is given.
    var isCutFree: Bool {
        if case .explicit = partition { false } else { true }
    }

    /// Whether the configuration sets a key that a planner could otherwise choose.
    func isGiven(_ key: String) -> Bool { givenKeys.contains(key) }

    private static func schedule(
        _ reader: ConfigurationReader, _ directory: String, default usual: String
    ) throws(ConfigurationError) -> RunConfiguration.ScheduleChoice {
        let word = try reader.string("schedule", default: usual)
        if word.hasSuffix(".sched") || word.contains("/") {
            return .file(word.hasPrefix("/") ? word : directory + "/" + word)
        }
        return .named(try reader.choice("schedule", of: ScheduleCatalog.names, default: usual))
    }

    private static func partition(
        _ reader: ConfigurationReader
    ) throws(ConfigurationError) -> RunConfiguration.PartitionRule {
        if reader.isList("partition") { return .explicit(try reader.intList("partition", in: 1...1_000_000)) }
        let word = try reader.choice("partition", of: ["auto", "measured"], default: "auto")
        return word == "measured" ? .measured : .estimated
    }

    private static func bytes(_ reader: ConfigurationReader, _ key: String) throws(ConfigurationError) -> Int? {
        guard reader.has(key) else { return nil }
        var text = ""
        if case .scalar(let written, _)? = reader.node(key)?.content { text = written }
        if let count = ByteCount(text) { return count.bytes }
        throw reader.error(key, "'\(text)' is not an amount of memory; write 8GiB, 512MiB or a number of bytes")
    }
}

extension RunConfiguration.GenerateSection {
    init(_ reader: ConfigurationReader) throws(ConfigurationError) {
        prompt = try reader.string("prompt", default: "")
        tokens = try reader.int("tokens", default: 200, in: 1...100_000_000)
        samples = try reader.int("samples", default: 1, in: 1...1_000_000)
        sampling = SamplingOptions(
            temperature: try reader.double("temperature", default: 1, in: 0...1000),
            topK: try reader.optionalInt("top_k", in: 1...Int.max),
            topP: try reader.optionalDouble("top_p", in: 0...1),
            seed: UInt64(try reader.int("seed", default: 1, in: 0...Int.max)))
        exit = reader.has("exit") ? try ExitRule(try reader.section("exit")) : nil
    }
}

extension ExitRule {
    /// Keys of `exit:` in `generate:` `criterion` (`latent_change`), `threshold` (the criterion's), `cache` (`latest` |
    /// `full`), `minimum` (1), `slots` (as many as applications).
    init(_ reader: ConfigurationReader) throws(ConfigurationError) {
        self.init(
            try reader.choice("criterion", default: .latentChange),
            threshold: try reader.optionalDouble("threshold", in: 0...1e9),
            cache: try reader.choice("cache", default: .latest),
            minimum: try reader.int("minimum", default: 1, in: 1...1_000_000),
            slots: try reader.optionalInt("slots", in: 1...1_000_000))
    }
}

extension ConfigurationReader {
    /// Whether the key is written as a list; for keys that take a word or a list.
    func isList(_ key: String) -> Bool {
        guard has(key), case .sequence? = node(key)?.content else { return false }
        return true
    }
}
