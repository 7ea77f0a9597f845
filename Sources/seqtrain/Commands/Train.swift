import ArgumentParser
import Communication
import Training

struct Train: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Train a model (the default).")
    @OptionGroup var job: JobOptions

    func run() throws {
        try job.run { job in
            let outcome = try job.train(display: ProgressDisplay())
            guard job.communicator.rank == 0 else { return }
            if let checkpoint = outcome.checkpoint { JobRunner.report("checkpoint \(checkpoint)") }
            for sample in outcome.samples { print(sample) }
        }
    }
}
