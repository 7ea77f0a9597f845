import ArgumentParser
import Communication
import Foundation
import Training

struct Evaluate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "eval", abstract: "Loss and accuracy of a checkpoint on the validation or test split.")
    @OptionGroup var job: JobOptions
    @Option(help: "Checkpoint directory; default: the latest of checkpoint.directory.")
    var checkpoint: String?
    @Option(help: "valid or test.")
    var split: String = "valid"

    func validate() throws {
        guard ["valid", "test"].contains(split) else {
            throw ValidationError("--split is valid or test, not '\(split)'")
        }
    }

    func run() throws {
        let (checkpoint, split) = (checkpoint, Corpus.Split(rawValue: split)!)
        try job.run { job in
            let (result, step) = try job.evaluate(checkpoint: checkpoint, split: split)
            guard job.communicator.rank == 0 else { return }
            print(result.line(split, step: step))
            for statistic in result.statistics {
                print(String(format: "%@ %@: %.4f", statistic.layer, statistic.term, statistic.value))
            }
        }
    }
}

extension Session.Evaluation {
    /// - Parameter step: that the checkpoint was written after.
    func line(_ split: Corpus.Split, step: Int) -> String {
        String(
            format:
                "%@ step %d: loss %.6f nats/token, perplexity %.4f, %.4f bits/token, %.2f %% right (%.2f %% of sequences), %d tokens",
            split.rawValue, step, meanLoss, exp(meanLoss), meanLoss / log(2), 100 * accuracy, 100 * sequenceAccuracy,
            tokens)
    }
}
