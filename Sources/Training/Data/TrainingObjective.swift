import Kernels
import Models
import Pipeline

/// What a model learns from text: `train.objective`.
///
/// | `type` | to be predicted | for models |
/// | --- | --- | --- |
/// | `next_token` | at every position the token after it; the default | that are causal |
/// | `prefix` | behind the first `length` tokens the next one; in them, tokens that a mask stands for, with a loss of their own | that read a prefix as a whole (`jrt`) |
/// | `masked` | tokens that a mask stands for, wherever they are | that look both ways (`hydra`, `bidirectional`) |
///
/// Keys: `mask_share` (0.15) for both masks; for `prefix` also `length` (required) and `masked_weight` (0.25): the loss is the
/// mean over next tokens + `masked_weight` · the mean over masked ones, which `metrics.jsonl` shows as
/// `auxiliary.masked_token`, weighted. Of `n` tokens `max(1, round(mask_share · n))` are masked, drawn anew for every
/// sequence of every step. The mask is one more symbol of the vocabulary, its last. Validation of `prefix` masks nothing
/// and has the loss behind the prefix; that of `masked` has the same masks every time.
///
/// Source: arXiv 2407.05483 (HazyResearch/prefix-linear-attention draws each mask independently), 1904.06690.
public enum TrainingObjective: Sendable, Equatable {
    case nextToken
    case prefix(length: Int, maskedWeight: Double, maskShare: Double)
    case masked(share: Double)

    private enum Kind: String, CaseIterable {
        case nextToken = "next_token"
        case prefix, masked
    }

    /// Counter word of the masks of the training split; the others follow. See `BatchSampler` and `TaskSampler`.
    private static let purpose: UInt32 = 0xDA7A_0005

    /// - Parameter reader: of the section; an empty one gives the default.
    init(_ reader: ConfigurationReader, sequenceLength: Int) throws(ConfigurationError) {
        func maskShare() throws(ConfigurationError) -> Double {
            try reader.double("mask_share", default: 0.15, in: 0...1, above: 0)
        }
        switch try reader.choice("type", as: Kind.self, default: .nextToken) {
        case .nextToken: self = .nextToken
        case .prefix:
            let length = try reader.int("length", default: nil, in: 1...100_000_000)
            if length >= sequenceLength {
                throw reader.error(
                    "length",
                    "a prefix of \(length) leaves nothing of train.sequence_length \(sequenceLength); make it shorter")
            }
            self = .prefix(
                length: length, maskedWeight: try reader.double("masked_weight", default: 0.25, in: 0...1000),
                maskShare: try maskShare())
        case .masked: self = .masked(share: try maskShare())
        }
    }

    /// Whether the vocabulary has one symbol more, the mask.
    var hasMask: Bool { self != .nextToken }

    /// The batch of a step with the targets of this objective.
    ///
    /// - Parameters:
    ///   - batch: inputs, and the token after each as its target.
    ///   - step: or the number of an evaluation batch; counted from 0.
    ///   - mask: the symbol.
    func apply(to batch: Batch, seed: UInt64, split: Corpus.Split, step: Int, mask: Int32) -> TokenBatch {
        var batch = batch
        var prefix: TokenBatch.Prefix?
        switch self {
        case .nextToken: break
        case .prefix(let length, let weight, let share):
            let masks = split == .train
            if masks { prefix = .init(length: length, weight: weight) }
            for row in 0..<batch.size {
                let positions = row * batch.length..<row * batch.length + length
                var random = Self.random(seed, split, step, row: row)
                batch.mask(masks ? share : nil, of: positions, by: mask, &random)
            }
        case .masked(let share):
            for row in 0..<batch.size {
                var random = Self.random(seed, split, step, row: row)
                batch.mask(share, of: row * batch.length..<(row + 1) * batch.length, by: mask, &random)
            }
        }
        return TokenBatch(
            rows: batch.size, time: batch.length, inputs: batch.inputs, targets: batch.targets,
            restarts: Array(repeating: batch.resetsCarry, count: batch.size), prefix: prefix)
    }

    private static func random(_ seed: UInt64, _ split: Corpus.Split, _ step: Int, row: Int) -> TaskRandom {
        let number = UInt32(Corpus.Split.allCases.firstIndex(of: split)!)
        return TaskRandom(
            PhiloxStream(seed: seed, a: UInt32(row), b: purpose + number, c: UInt32(truncatingIfNeeded: step)))
    }
}

extension Batch {
    /// Makes a share of the tokens in `positions` the only targets there, with the mask as their input; nil makes none.
    fileprivate mutating func mask(
        _ share: Double?, of positions: Range<Int>, by mask: Int32, _ random: inout TaskRandom
    ) {
        // Where a row is filled up there is no target.
        let tokens = positions.filter { targets[$0] != Self.ignored }
        for position in tokens { targets[position] = Self.ignored }
        guard let share, !tokens.isEmpty else { return }
        let count = max(1, Int((share * Double(tokens.count)).rounded()))
        for index in random.distinct(count, below: tokens.count) {
            targets[tokens[index]] = inputs[tokens[index]]
            inputs[tokens[index]] = mask
        }
    }
}

extension TrainingObjective {
    /// Refuses what would let a model see the tokens that it is to predict, and so learn nothing but to look them up.
    ///
    /// - Parameters:
    ///   - model: the section, where errors point.
    ///   - train: likewise.
    func check(
        _ model: Model, _ source: DataSource, model modelReader: ConfigurationReader, train: ConfigurationReader
    ) throws(ConfigurationError) {
        if case .task = source, hasMask {
            throw train.error("objective", "a task has targets of its own; remove the key, or train on text")
        }
        if case .prefix = self, model.head.lossTerms.count > 1 {
            throw train.error("objective", "a loss at every exit has no prefix of its own; remove recursion.early_exit")
        }
        for layer in model.layers where layer.lookahead != .none {
            if let problem = problem(layer.lookahead, source) {
                throw modelReader.error("layers", "layer '\(layer.name)' \(problem)")
            }
        }
    }

    /// What is wrong with a layer that looks ahead.
    private func problem(_ lookahead: Lookahead, _ source: DataSource) -> String? {
        var isText = false
        if case .files(let data) = source {
            isText = true
            if case .prefix(let read) = lookahead, data.sampling == .stream {
                return "reads the first \(read) tokens of a sequence, but streams go on from batch to batch;"
                    + " set data.sampling=random"
            }
        }
        switch (self, lookahead) {
        case (.masked, _), (_, .none): return nil
        case (.nextToken, _) where !source.showsTargets: return nil
        case (.prefix(let scored, _, _), .prefix(let read)):
            return scored == read
                ? nil : "reads a prefix of \(read) tokens, but train.objective.length is \(scored); make them equal"
        case (.nextToken, .prefix(let read)) where isText:
            return "sees tokens of its prefix that it is to predict;"
                + " set train.objective={type: prefix, length: \(read)}"
        default:
            return "sees tokens that it is to predict; use causal mixers"
                + (isText ? ", or set train.objective={type: masked}" : " for this task")
        }
    }
}
