import Pipeline

/// The data of a run in the form that the pipeline takes: training batches as a function of the step,
/// and covers of the other splits.
public final class DataSet {
    public let vocabulary: Vocabulary
    private let corpus: Corpus
    private let configuration: DataConfiguration
    private let sampler: BatchSampler

    /// Whether batches continue each other, so that recurrent state is handed on.
    public var isStream: Bool { configuration.sampling == .stream }

    /// Reads the files. - Throws: `DataError`.
    public init(_ configuration: DataConfiguration, seed: UInt64) throws(DataError) {
        corpus = try Corpus(configuration)
        sampler = try BatchSampler(corpus, configuration, seed: seed)
        vocabulary = corpus.vocabulary
        self.configuration = configuration
    }

    /// - Parameter step: counted from 1.
    public func trainingBatch(step: Int) -> TokenBatch { tokenBatch(sampler.batch(step: step - 1)) }

    /// The first `limit` batches of the split's cover; all of them when nil.
    /// - Throws: when the split is absent or too short.
    public func evaluationBatches(
        split: Corpus.Split, limit: Int? = nil
    ) throws(DataError) -> some Sequence<TokenBatch> {
        let batches = try EvaluationBatches(corpus, split, configuration, limit: limit)
        return (0..<batches.count).lazy.map { [self] in tokenBatch(batches.batch($0)) }
    }

    private func tokenBatch(_ batch: Batch) -> TokenBatch {
        TokenBatch(
            rows: batch.size, time: batch.length, inputs: batch.inputs, targets: batch.targets,
            restarts: Array(repeating: batch.resetsCarry, count: batch.size))
    }
}
