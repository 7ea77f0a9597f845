import ArgumentParser
import Communication
import Foundation
import Pipeline
import Training

struct Generate: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Continue a prompt with a checkpoint.")
    @OptionGroup var job: JobOptions
    @Option(help: "Checkpoint directory; default: the latest of checkpoint.directory.")
    var checkpoint: String?
    @Option(help: "Text to continue; default: generate.prompt.")
    var prompt: String?
    @Option(help: "Tokens to add.")
    var tokens: Int?
    @Option(help: "Independent texts, made at the same time.")
    var samples: Int?
    @Option(help: "0 takes the most likely token each time.")
    var temperature: Double?
    @Option(help: "Draw among the k most likely tokens.")
    var topK: Int?
    @Option(help: "Draw among the smallest set of tokens with this probability.")
    var topP: Double?
    @Option(help: "Seed of the draws.")
    var seed: UInt64?
    @Option(
        help:
            "When tokens leave a shared block early: \(ExitRule.Criterion.allCases.map(\.rawValue).joined(separator: ", "))."
    )
    var exit: ExitRule.Criterion?
    @Option(help: "Threshold of the criterion; default: generate.exit.threshold, or the criterion's.")
    var exitThreshold: Double?
    @Option(help: "What later tokens find of one that left: latest keys and values of the layer, or full (none).")
    var exitCache: ExitRule.Cache?
    @Option(help: "Applications of the shared block that every token goes through.")
    var exitMinimum: Int?
    @Option(help: "How many applications' keys, values and states are kept, in turn; default: those of all.")
    var exitSlots: Int?

    func validate() throws {
        if let tokens, tokens < 1 { throw ValidationError("--tokens needs at least 1") }
        if let samples, samples < 1 { throw ValidationError("--samples needs at least 1") }
        if let temperature, !(temperature >= 0) { throw ValidationError("--temperature cannot be negative") }
        if let topK, topK < 1 { throw ValidationError("--top-k needs at least 1") }
        if let exitThreshold, !(exitThreshold >= 0) { throw ValidationError("--exit-threshold cannot be negative") }
        if let exitMinimum, exitMinimum < 1 { throw ValidationError("--exit-minimum needs at least 1") }
        if let exitSlots, exitSlots < 1 { throw ValidationError("--exit-slots needs at least 1") }
        if let topP, !(topP > 0 && topP <= 1) { throw ValidationError("--top-p lies in (0, 1]") }
    }

    func run() throws {
        let options = self
        try job.run { job in
            var request = job.run.generate ?? .standard
            if let prompt = options.prompt { request.prompt = prompt }
            if let tokens = options.tokens { request.tokens = tokens }
            if let samples = options.samples { request.samples = samples }
            if let temperature = options.temperature { request.sampling.temperature = temperature }
            if let topK = options.topK { request.sampling.topK = topK }
            if let topP = options.topP { request.sampling.topP = topP }
            if let seed = options.seed { request.sampling.seed = seed }
            request.exit = options.exitRule(request.exit)
            // Several texts come whole, each with its prompt; a single one comes after it, once it is clear that one comes.
            var start = request.samples == 1 ? request.prompt : ""
            let result = try job.generate(checkpoint: options.checkpoint, request) { text in
                FileHandle.standardOutput.write(Data((start + text).utf8))
                start = ""
            }
            guard job.communicator.rank == 0 else { return }
            FileHandle.standardOutput.write(Data("\n".utf8))
            if let mean = result.meanIterations {
                ProgressDisplay.standardError(String(format: "iterations per token: mean %.2f\n", mean))
            }
        }
    }

    /// The configuration's rule with what the command line says of it.
    private func exitRule(_ configured: ExitRule?) -> ExitRule? {
        let isAsked = exit != nil || exitThreshold != nil || exitCache != nil || exitMinimum != nil || exitSlots != nil
        guard isAsked || configured != nil else { return nil }
        var rule = configured ?? ExitRule(exit ?? .latentChange)
        if let exit, rule.criterion != exit { (rule.criterion, rule.threshold) = (exit, exit.usualThreshold) }
        if let exitThreshold { rule.threshold = exitThreshold }
        if let exitCache { rule.cache = exitCache }
        if let exitMinimum { rule.minimum = exitMinimum }
        if let exitSlots { rule.slots = exitSlots }
        return rule
    }
}

extension ExitRule.Criterion: ExpressibleByArgument {}
extension ExitRule.Cache: ExpressibleByArgument {}
