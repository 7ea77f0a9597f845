import Kernels

/// Batches of a task as a pure function of (seed, split, step, sample): the Philox counter of an example is
/// `(·, sample, split, step)` under the key `seed`. Splits share no counters, so they share no examples but by
/// chance; the valid and test splits are the same in every run with the same seed.
public struct TaskSampler: Sendable {
    /// Counter word of the training split; the others follow.
    private static let purpose: UInt32 = 0xDA7A_0002

    public let configuration: TaskConfiguration
    public let seed: UInt64

    public init(_ configuration: TaskConfiguration, seed: UInt64) {
        self.configuration = configuration
        self.seed = seed
    }

    /// Batches in each of the valid and test splits.
    public var evaluationBatchCount: Int {
        (configuration.evaluationExamples + configuration.batchSize - 1) / configuration.batchSize
    }

    /// - Parameter step: or the number of an evaluation batch; counted from 0.
    public func batch(_ split: Corpus.Split, _ step: Int) -> Batch {
        let (size, length) = (configuration.batchSize, configuration.sequenceLength)
        var batch = Batch(size: size, length: length, resetsCarry: true)
        for sample in 0..<size {
            let example = example(split, step: step, sample: sample)
            batch.inputs.replaceSubrange(sample * length..<(sample + 1) * length, with: example.inputs)
            batch.targets.replaceSubrange(sample * length..<(sample + 1) * length, with: example.targets)
            batch.sampleIDs.append(UInt64(step) * UInt64(size) + UInt64(sample))
        }
        return batch
    }

    public func example(_ split: Corpus.Split, step: Int, sample: Int) -> TaskExample {
        let number = UInt32(Corpus.Split.allCases.firstIndex(of: split)!)
        var random = TaskRandom(
            PhiloxStream(
                seed: seed, a: UInt32(sample), b: Self.purpose + number, c: UInt32(truncatingIfNeeded: step)))
        return configuration.task.example(&random)
    }
}
