import Kernels

/// Training batches as a pure function of the step: nothing to save or restore, and every rank that asks
/// for a sample gets the same one.
///
/// - `random`: sample `i` of step `s` is the window at `floor(u · (N − T) / 2⁶⁴)`, with `u` the first two
///   words (low, high) of the Philox counter `(0, i, purpose, s)` under the key `seed`. Windows are drawn
///   independently, so they overlap and repeat; an epoch is a number of tokens, not a permutation.
/// - `stream`: the `N − 1` predictable positions are cut into `B` streams of `S = ⌊(N − 1) / B⌋`; row `b` of
///   step `s` reads `T` tokens from `b·S + (s mod W)·T`, `W = ⌊S / T⌋`. The carry resets when `s mod W = 0`;
///   the last `S mod T` tokens of each stream are never read. The seed plays no part.
public struct BatchSampler: Sendable {
    /// Counter word that keeps data apart from dropout and initial values.
    static let purpose: UInt32 = 0xDA7A_0001

    public let tokens: TokenSequence
    public let sampling: DataConfiguration.Sampling
    public let batchSize: Int
    public let sequenceLength: Int
    public let seed: UInt64

    /// - Parameter split: its name, for messages.
    /// - Throws: `.splitTooShort` if no batch fits.
    public init(
        _ tokens: TokenSequence, sampling: DataConfiguration.Sampling, batchSize: Int, sequenceLength: Int,
        seed: UInt64, split: Corpus.Split = .train
    ) throws(DataError) {
        let needed = sampling == .random ? sequenceLength + 1 : batchSize * sequenceLength + 1
        guard tokens.count >= needed else {
            let reason =
                sampling == .random
                ? "sequence_length \(sequenceLength) + 1"
                : "batch_size \(batchSize) streams of sequence_length \(sequenceLength), + 1"
            throw .splitTooShort(split.rawValue, tokens: tokens.count, needed: needed, reason: reason)
        }
        self.tokens = tokens
        self.sampling = sampling
        self.batchSize = batchSize
        self.sequenceLength = sequenceLength
        self.seed = seed
    }

    public init(_ corpus: Corpus, _ configuration: DataConfiguration, seed: UInt64) throws(DataError) {
        try self.init(
            corpus.tokens(.train), sampling: configuration.sampling, batchSize: configuration.batchSize,
            sequenceLength: configuration.sequenceLength, seed: seed)
    }

    public var tokensPerStep: Int { batchSize * sequenceLength }

    /// Steps that read about every token once; exactly one pass for streams.
    public var stepsPerEpoch: Int {
        switch sampling {
        case .random: max(1, (tokens.count - 1) / tokensPerStep)
        case .stream: (tokens.count - 1) / batchSize / sequenceLength
        }
    }

    /// The rows `samples` (all of them unless given) of the batch of a step, counted from 0.
    public func batch(step: Int, samples: Range<Int>? = nil) -> Batch {
        let samples = samples ?? 0..<batchSize
        guard step >= 0, samples.lowerBound >= 0, samples.upperBound <= batchSize else {
            fatalError(
                "BatchSampler: step \(step), samples \(samples); expected a step from 0, samples in 0..<\(batchSize)")
        }
        let resets = sampling == .random || step % stepsPerEpoch == 0
        var batch = Batch(size: samples.count, length: sequenceLength, resetsCarry: resets)
        for (row, sample) in samples.enumerated() {
            batch.fill(row: row, from: tokens, start: start(step: step, sample: sample), count: sequenceLength)
            batch.sampleIDs.append(UInt64(step) * UInt64(batchSize) + UInt64(sample))
        }
        return batch
    }

    /// Position of the first input of a sample.
    public func start(step: Int, sample: Int) -> Int {
        switch sampling {
        case .random:
            let stream = PhiloxStream(
                seed: seed, a: UInt32(sample), b: Self.purpose, c: UInt32(truncatingIfNeeded: step))
            let words = Philox.words(stream, count: 2)
            let random = UInt64(words[1]) << 32 | UInt64(words[0])
            return Int(random.multipliedFullWidth(by: UInt64(tokens.count - sequenceLength)).high)
        case .stream:
            return sample * ((tokens.count - 1) / batchSize) + step % stepsPerEpoch * sequenceLength
        }
    }
}

/// Batches that cover a split once, always the same ones: every token but the first is a target exactly
/// once. Short ends are filled up with ignored targets, so that all batches have one shape.
///
/// With `random` sampling the split is cut into windows of `T`, each starting without carry. With `stream`
/// it is cut into `B` streams that hand their carry from batch to batch.
public struct EvaluationBatches: Sendable {
    public let tokens: TokenSequence
    public let sampling: DataConfiguration.Sampling
    public let batchSize: Int
    public let sequenceLength: Int
    /// Number of batches.
    public let count: Int

    /// - Parameter limit: at most so many batches, from the start of the split.
    /// - Throws: `.splitTooShort` if there is nothing to predict.
    public init(
        _ tokens: TokenSequence, sampling: DataConfiguration.Sampling, batchSize: Int, sequenceLength: Int,
        limit: Int? = nil, split: Corpus.Split = .valid
    ) throws(DataError) {
        guard tokens.count >= 2 else {
            throw .splitTooShort(split.rawValue, tokens: tokens.count, needed: 2, reason: "one input and one target")
        }
        self.tokens = tokens
        self.sampling = sampling
        self.batchSize = batchSize
        self.sequenceLength = sequenceLength
        let positions = tokens.count - 1
        let all: Int
        switch sampling {
        case .random: all = Self.quotient(Self.quotient(positions, sequenceLength), batchSize)
        case .stream: all = Self.quotient(Self.quotient(positions, batchSize), sequenceLength)
        }
        count = min(all, limit ?? all)
    }

    public init(
        _ corpus: Corpus, _ split: Corpus.Split, _ configuration: DataConfiguration, limit: Int? = nil
    ) throws(DataError) {
        try self.init(
            corpus.tokens(split), sampling: configuration.sampling, batchSize: configuration.batchSize,
            sequenceLength: configuration.sequenceLength, limit: limit, split: split)
    }

    /// Targets in all batches together.
    public var tokenCount: Int {
        var total = 0
        for index in 0..<count { for row in 0..<batchSize { total += window(index, row).count } }
        return total
    }

    /// The rows `samples` (all of them unless given) of batch `index`.
    public func batch(_ index: Int, samples: Range<Int>? = nil) -> Batch {
        let samples = samples ?? 0..<batchSize
        guard (0..<count).contains(index), samples.lowerBound >= 0, samples.upperBound <= batchSize else {
            fatalError(
                "EvaluationBatches: batch \(index), samples \(samples); expected 0..<\(count), in 0..<\(batchSize)")
        }
        let resets = sampling == .random || index == 0
        var batch = Batch(size: samples.count, length: sequenceLength, resetsCarry: resets)
        for (row, sample) in samples.enumerated() {
            let window = window(index, sample)
            if window.count > 0 { batch.fill(row: row, from: tokens, start: window.start, count: window.count) }
            batch.sampleIDs.append(UInt64(index) * UInt64(batchSize) + UInt64(sample))
        }
        return batch
    }

    private func window(_ index: Int, _ row: Int) -> (start: Int, count: Int) {
        let positions = tokens.count - 1
        switch sampling {
        case .random:
            let start = (index * batchSize + row) * sequenceLength
            return (start, max(0, min(sequenceLength, positions - start)))
        case .stream:
            let streamLength = Self.quotient(positions, batchSize)
            let start = row * streamLength + index * sequenceLength
            let end = min((row + 1) * streamLength, positions)
            return (start, max(0, min(sequenceLength, end - start)))
        }
    }

    /// Division rounding up.
    private static func quotient(_ a: Int, _ b: Int) -> Int { (a + b - 1) / b }
}
