import Foundation
import Kernels
import Pipeline

/// Looks, sequence by sequence, for a chain of a trained model's layers that is shorter or does better than all of them
/// in order (arXiv 2507.07996). No gradients, no training.
///
/// The trees of all sequences grow in step, one simulation each, and sequences whose trees ask for the same chain are run
/// together. A chain is run once for each sequence. Deterministic by the seed.
public struct DepthSearch {
    /// What a chain is worth.
    public enum Reward: String, CaseIterable, Sendable {
        /// 1 when every counted token is right, 0 otherwise.
        case correct
        /// `exp(−mean token loss)`.
        case loss
    }

    public struct Options: Sendable {
        public var reward: Reward
        /// For each sequence, the chain of all layers included.
        public var simulations = 200
        /// Weight of the unknown in the confidence bound.
        public var exploration = 0.5
        /// Taken off the reward for a chain as long as the model.
        public var lengthPenalty = 0.1
        public var seed: UInt64 = 1

        public init(reward: Reward) { self.reward = reward }

        /// Chains may be twice as long as the model, but not longer.
        func longestPath(_ depth: Int) -> Int { 2 * depth }
    }

    /// Consecutive layers that one action skips or repeats, at most.
    static let longestSegment = 4
    /// Further times that one action repeats them, at most.
    static let mostRepeats = 4

    /// What was found for one sequence. Never worse than the whole model by the reward.
    public struct Outcome: Sendable, Equatable {
        /// Index of the sequence.
        public let sample: Int
        public let path: [Int]
        public let score: PathRunner.Score
        /// Of all layers in order.
        public let full: PathRunner.Score
        /// Different chains that were run.
        public let pathCount: Int
    }

    private let runner: PathRunner
    private let options: Options
    /// Sequences run together, at most.
    private let rowLimit: Int

    public init(runner: PathRunner, options: Options, rowLimit: Int) {
        self.runner = runner
        self.options = options
        self.rowLimit = rowLimit
    }

    /// - Parameter limit: sequences to take from the front of `batches`; nil takes all.
    public func run(_ batches: some Sequence<TokenBatch>, limit: Int? = nil) -> [Outcome] {
        var samples: [PathRunner.Sequences] = []
        for batch in batches {
            for row in 0..<batch.rows where samples.count < limit ?? .max {
                let tokens = row * batch.time..<(row + 1) * batch.time
                samples.append(
                    PathRunner.Sequences(
                        inputs: Array(batch.inputs[tokens]), targets: Array(batch.targets[tokens]), time: batch.time))
            }
            if samples.count == limit { break }
        }
        let depth = runner.layerCount
        var trees = samples.indices.map {
            PathTree(depth: depth, options: options, stream: PhiloxStream(seed: options.seed, a: UInt32($0), c: 3))
        }
        var known = [[[Int]: PathRunner.Score]](repeating: [:], count: samples.count)
        for _ in 0..<options.simulations {
            let paths = trees.indices.map { trees[$0].next() }
            let unknown = samples.indices.filter { known[$0][paths[$0]] == nil }
            for (path, members) in Self.grouped(unknown, by: { paths[$0] }) {
                for (sample, score) in zip(members, scores(members.map { samples[$0] }, path)) {
                    known[sample][path] = score
                }
            }
            for sample in samples.indices { trees[sample].record(reward(known[sample][paths[sample]]!)) }
        }
        return samples.indices.map { best(of: known[$0], sample: $0) }
    }

    /// In the order in which their keys first come.
    private static func grouped<Key: Hashable>(_ items: [Int], by key: (Int) -> Key) -> [(Key, [Int])] {
        var order: [Key] = []
        let groups = Dictionary(grouping: items) { item in
            let key = key(item)
            if !order.contains(key) { order.append(key) }
            return key
        }
        return order.map { ($0, groups[$0]!) }
    }

    private func scores(_ samples: [PathRunner.Sequences], _ path: [Int]) -> [PathRunner.Score] {
        stride(from: 0, to: samples.count, by: rowLimit).flatMap { first in
            var together = samples[first]
            for sample in samples[(first + 1)..<min(first + rowLimit, samples.count)] {
                together.inputs += sample.inputs
                together.targets += sample.targets
            }
            return runner.scores(together, path: path)
        }
    }

    private func reward(_ score: PathRunner.Score) -> Double {
        switch options.reward {
        case .correct: score.isCorrect ? 1 : 0
        case .loss: exp(-score.meanLoss)
        }
    }

    /// The best of the chains that are not worse than the whole model: by the reward, then the shortest; with a loss as
    /// reward, by reward less the price of the length. Equals go to the one that comes first in the dictionary.
    private func best(of known: [[Int]: PathRunner.Score], sample: Int) -> Outcome {
        let whole = Array(0..<runner.layerCount)
        let full = known[whole]!
        func merit(_ path: [Int], _ score: PathRunner.Score) -> (Double, Int) {
            switch options.reward {
            case .correct: (reward(score), -path.count)
            case .loss:
                (reward(score) - options.lengthPenalty * Double(path.count) / Double(whole.count), -path.count)
            }
        }
        var best = (path: whole, score: full, merit: merit(whole, full))
        for (path, score) in known.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) })
        where reward(score) >= reward(full) {
            let merit = merit(path, score)
            if merit > best.merit { best = (path, score, merit) }
        }
        return Outcome(sample: sample, path: best.path, score: best.score, full: full, pathCount: known.count)
    }
}

extension DepthSearch.Outcome {
    var json: JSON {
        .object([
            .init("sample", .int(sample)), .init("path", .array(path.map(JSON.int))), .init("length", .int(path.count)),
            .init("loss", .double(score.meanLoss)), .init("correct", .bool(score.isCorrect)),
            .init("full_loss", .double(full.meanLoss)), .init("full_correct", .bool(full.isCorrect)),
            .init("paths_tried", .int(pathCount)),
        ])
    }
}

extension DepthSearch {
    /// A table for people.
    ///
    /// - Parameter depth: layers of the model.
    public static func summary(_ outcomes: [Outcome], depth: Int) -> String {
        let count = Double(max(1, outcomes.count))
        func mean(_ value: (Outcome) -> Double) -> Double { outcomes.reduce(0) { $0 + value($1) } / count }
        func share(_ part: [Outcome], of whole: [Outcome]) -> String {
            whole.isEmpty
                ? "none" : String(format: "%.1f %% of %d", 100 * Double(part.count) / Double(whole.count), whole.count)
        }
        func row(_ name: String, _ full: Double, _ found: Double, _ format: String) -> String {
            name.padding(toLength: 22, withPad: " ", startingAt: 0)
                + [full, found].map { String(format: format, $0) }.map {
                    String(repeating: " ", count: max(0, 12 - $0.count)) + $0
                }.joined()
        }
        let (solved, failed) = (outcomes.filter(\.full.isCorrect), outcomes.filter { !$0.full.isCorrect })
        return [
            "\(outcomes.count) samples".padding(toLength: 22, withPad: " ", startingAt: 0) + "  all layers       found",
            row("layers", Double(depth), mean { Double($0.path.count) }, "%.2f"),
            row("loss, nats/token", mean(\.full.meanLoss), mean(\.score.meanLoss), "%.4f"),
            row(
                "right, %", 100 * mean { $0.full.isCorrect ? 1 : 0 }, 100 * mean { $0.score.isCorrect ? 1 : 0 }, "%.2f"),
            "shorter where all layers are right: \(share(solved.filter { $0.score.isCorrect && $0.path.count < depth }, of: solved))",
            "right where all layers are wrong: \(share(failed.filter(\.score.isCorrect), of: failed))",
        ].joined(separator: "\n")
    }
}
