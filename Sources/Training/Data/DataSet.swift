import Pipeline

/// The data of a run in the form that the pipeline takes: training batches as a function of the step,
/// and covers of the other splits.
public final class DataSet {
    public let vocabulary: Vocabulary
    /// Whether batches continue each other, so that recurrent state is handed on.
    public let isStream: Bool
    /// Whether examples are made up and have answers that are right or wrong.
    public var isTask: Bool { if case .task = batches { true } else { false } }
    private let batches: Batches
    private let objective: TrainingObjective
    private let seed: UInt64
    /// `V`: the vocabulary, and the mask where the objective has one.
    public var symbolCount: Int { vocabulary.count + (objective.hasMask ? 1 : 0) }

    private enum Batches {
        case corpus(Corpus, DataConfiguration, BatchSampler)
        case task(TaskSampler)
    }

    public convenience init(
        _ source: DataSource, seed: UInt64, objective: TrainingObjective = .nextToken
    ) throws(DataError) {
        switch source {
        case .files(let configuration): try self.init(configuration, seed: seed, objective: objective)
        case .task(let configuration): self.init(configuration, seed: seed)
        }
    }

    /// Reads the files. - Throws: `DataError`.
    public init(
        _ configuration: DataConfiguration, seed: UInt64, objective: TrainingObjective = .nextToken
    ) throws(DataError) {
        let corpus = try Corpus(configuration)
        batches = .corpus(corpus, configuration, try BatchSampler(corpus, configuration, seed: seed))
        vocabulary = corpus.vocabulary
        isStream = configuration.sampling == .stream
        (self.objective, self.seed) = (objective, seed)
    }

    public init(_ configuration: TaskConfiguration, seed: UInt64) {
        batches = .task(TaskSampler(configuration, seed: seed))
        vocabulary = .tokens(configuration.task.vocabularySize)
        isStream = false
        (objective, self.seed) = (.nextToken, seed)
    }

    /// - Parameter step: counted from 1.
    public func trainingBatch(step: Int) -> TokenBatch {
        let batch =
            switch batches {
            case .corpus(_, _, let sampler): sampler.batch(step: step - 1)
            case .task(let sampler): sampler.batch(.train, step - 1)
            }
        return tokenBatch(batch, .train, step - 1)
    }

    /// The first `limit` batches of the split's cover; all of them when nil.
    /// - Throws: when the split is absent, or too short for a single target.
    public func evaluationBatches(
        split: Corpus.Split, limit: Int? = nil
    ) throws(DataError) -> some Sequence<TokenBatch> {
        let count: Int
        let batch: (Int) -> Batch
        switch batches {
        case .corpus(let corpus, let configuration, _):
            let cover = try EvaluationBatches(corpus, split, configuration, limit: limit)
            count = cover.count
            batch = { cover.batch($0) }
            // Windows only get shorter.
            if case .prefix(let length, _, _) = objective, tokenBatch(batch(0), split, 0).targetCount == 0 {
                throw .splitTooShort(
                    split.rawValue, tokens: try corpus.tokens(split).count, needed: length + 2,
                    reason: "a prefix of \(length), then one input and one target")
            }
        case .task(let sampler):
            count = min(sampler.evaluationBatchCount, limit ?? .max)
            batch = { sampler.batch(split, $0) }
        }
        return (0..<count).lazy.map { self.tokenBatch(batch($0), split, $0) }
    }

    private func tokenBatch(_ batch: Batch, _ split: Corpus.Split, _ step: Int) -> TokenBatch {
        objective.apply(to: batch, seed: seed, split: split, step: step, mask: Int32(vocabulary.count))
    }
}
