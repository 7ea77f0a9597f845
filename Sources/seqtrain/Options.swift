import ArgumentParser
import Communication
import Training

/// The configuration file, overrides, and number of in-process ranks that most commands take.
struct JobOptions: ParsableArguments {
    @Argument(help: "Configuration file (YAML).")
    var config: String

    @Argument(help: ArgumentHelp("Overrides of single keys.", valueName: "key.path=value"))
    var overrides: [String] = []

    @Option(help: ArgumentHelp("Lay the run out as this plan file says ('seqtrain plan --out' writes one)."))
    var plan: String?

    @Option(help: ArgumentHelp("Run this many ranks as threads of one process.", valueName: "n"))
    var localRanks: Int?

    mutating func validate() throws {
        if let localRanks, !(1...1024).contains(localRanks) {
            throw ValidationError("--local-ranks needs a number from 1 to 1024, not \(localRanks)")
        }
        for text in overrides where !text.contains("=") {
            throw ValidationError("'\(text)' is not an override; write key.path=value, train.steps=100 for example")
        }
    }

    /// Opens the job on every rank and hands it over.
    func run(_ body: @escaping @Sendable (Job) throws -> Void) throws {
        let (config, plan, overrides) = (config, plan, overrides)
        try JobRunner.run(localRanks: localRanks) { communicator in
            try body(Job.open(config: config, plan: plan, overrides: overrides, communicator: communicator))
        }
    }
}
