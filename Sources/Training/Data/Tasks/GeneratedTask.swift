public import Models

/// A task whose examples are made up as they are needed, each a function of the random numbers it is given.
///
/// Tokens are numbers without text. Every example has `T` inputs, and a target for the positions that count.
public protocol GeneratedTask: Sendable {
    /// The word for it in `data.task`.
    static var name: String { get }
    /// Whether answers are inputs too, for the ones after them; a model that looks ahead would read them off.
    static var showsTargets: Bool { get }
    /// Reads the task's keys.
    /// - Parameter length: `T`, from `train.sequence_length`.
    init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError)
    /// `V`, of inputs and targets alike.
    var vocabularySize: Int { get }
    func example(_ random: inout TaskRandom) -> TaskExample
}

extension GeneratedTask {
    public static var showsTargets: Bool { false }
}

/// Inputs of a task and what must be predicted at each.
public struct TaskExample: Sendable, Equatable {
    /// `[T]`, zeros to begin with.
    public var inputs: [Int32]
    /// `[T]`, `Batch.ignored` where nothing is asked.
    public var targets: [Int32]

    init(length: Int) {
        inputs = [Int32](repeating: 0, count: length)
        targets = [Int32](repeating: Batch.ignored, count: length)
    }
}

/// The `data` section of a generated task.
///
/// | key | meaning | default |
/// | --- | --- | --- |
/// | `task` | `addition`, `copy`, `copying`, `delayed_match`, `group`, `induction`, `multi_query_recall`, `parity` or `reverse` | required |
/// | `evaluation_examples` | examples in each of the valid and test splits, rounded up to whole batches | 1024 |
///
/// The other keys are the task's own. The example length is `train.sequence_length`.
public struct TaskConfiguration: Sendable {
    /// Every task there is, by name.
    static let tasks: [any GeneratedTask.Type] = [
        AdditionTask.self, CopyTask.self, CopyingTask.self, DelayedMatchTask.self, GroupTask.self, InductionTask.self,
        MultiQueryRecallTask.self, ParityTask.self, ReverseTask.self,
    ]

    public var task: any GeneratedTask
    public var evaluationExamples: Int
    /// `B`, from `train.batch_size`.
    public var batchSize: Int
    /// `T`, from `train.sequence_length`.
    public var sequenceLength: Int

    public init(
        _ reader: ConfigurationReader, batchSize: Int, sequenceLength: Int
    ) throws(ConfigurationError) {
        let name = try reader.choice("task", of: Self.tasks.map { $0.name })
        task = try Self.tasks.first { $0.name == name }!.init(reader, length: sequenceLength)
        evaluationExamples = try reader.int("evaluation_examples", default: 1024, in: 1...1 << 30)
        self.batchSize = batchSize
        self.sequenceLength = sequenceLength
    }
}

extension ConfigurationReader {
    /// An error about a task that does not fit into `T`.
    func tooShort(_ key: String, length: Int, needed: Int) -> ConfigurationError {
        error(key, "needs train.sequence_length \(needed) or more, but it is \(length)")
    }
}
