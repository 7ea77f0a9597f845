import ArgumentParser
import Communication
import Foundation
import Training

struct DepthSearchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "depth-search",
        abstract: "Run a trained model with some layers skipped or repeated, or search such chains for every sample.",
        discussion: """
            With --path the split is evaluated with that chain of layers, 0,1,1,3 for example. Without it, a Monte-Carlo \
            tree search looks for each sample's best chain: actions skip 1 to 4 consecutive layers or repeat them up to \
            4 times. Nothing is trained. For models whose layers keep the width; in one process.
            """)
    @OptionGroup var job: JobOptions
    @Option(help: "Checkpoint directory; default: the latest of checkpoint.directory.")
    var checkpoint: String?
    @Option(help: "valid or test.")
    var split: String = "valid"
    @Option(help: ArgumentHelp("Evaluate this chain of layers, counted from 0.", valueName: "0,1,1,3"))
    var path: String?
    @Option(help: ArgumentHelp("Samples to search for.", valueName: "n"))
    var samples: Int = 64
    @Option(help: ArgumentHelp("Chains tried for each sample.", valueName: "n"))
    var simulations: Int = 200
    @Option(help: "correct or loss; default: correct for tasks, loss for text.")
    var reward: String?
    @Option(help: "Taken off the reward (0 to 1) for a chain as long as the model.")
    var lengthPenalty: Double = 0.1
    @Option(help: "Weight of little tried chains.")
    var exploration: Double = 0.5
    @Option(help: "Seed of the search.")
    var seed: UInt64 = 1
    @Option(help: ArgumentHelp("Write one JSON object per sample.", valueName: "file.jsonl"))
    var out: String?

    private var layers: [Int]? {
        path.map { $0.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) ?? -1 } }
    }

    func validate() throws {
        guard ["valid", "test"].contains(split) else {
            throw ValidationError("--split is valid or test, not '\(split)'")
        }
        if let layers, layers.contains(where: { $0 < 0 }) {
            throw ValidationError("--path is a list of layer numbers such as 0,1,1,3, not '\(path!)'")
        }
        if let reward, DepthSearch.Reward(rawValue: reward) == nil {
            throw ValidationError("--reward is correct or loss, not '\(reward)'")
        }
        if samples < 1 || simulations < 1 { throw ValidationError("--samples and --simulations need at least 1") }
        if !(lengthPenalty >= 0) || !(exploration >= 0) {
            throw ValidationError("--length-penalty and --exploration cannot be negative")
        }
    }

    func run() throws {
        let (options, split) = (self, Corpus.Split(rawValue: split)!)
        try job.run { job in
            if let layers = options.layers {
                let (result, step) = try job.evaluate(checkpoint: options.checkpoint, split: split, path: layers)
                print(result.line(split, step: step))
                return
            }
            print(
                try job.searchDepth(
                    checkpoint: options.checkpoint, split: split, samples: options.samples, out: options.out
                ) { isTask in
                    var search = DepthSearch.Options(
                        reward: options.reward.map { .init(rawValue: $0)! } ?? (isTask ? .correct : .loss))
                    (search.simulations, search.lengthPenalty) = (options.simulations, options.lengthPenalty)
                    (search.exploration, search.seed) = (options.exploration, options.seed)
                    return search
                })
        }
    }
}
