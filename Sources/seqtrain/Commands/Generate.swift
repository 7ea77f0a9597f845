import ArgumentParser
import Communication
import Foundation
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

    func validate() throws {
        if let tokens, tokens < 1 { throw ValidationError("--tokens needs at least 1") }
        if let samples, samples < 1 { throw ValidationError("--samples needs at least 1") }
        if let temperature, !(temperature >= 0) { throw ValidationError("--temperature cannot be negative") }
        if let topK, topK < 1 { throw ValidationError("--top-k needs at least 1") }
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
            // Several texts come whole, each with its prompt.
            if job.communicator.rank == 0, request.samples == 1 {
                FileHandle.standardOutput.write(Data(request.prompt.utf8))
            }
            _ = try job.generate(checkpoint: options.checkpoint, request) { text in
                FileHandle.standardOutput.write(Data(text.utf8))
            }
            if job.communicator.rank == 0 { print() }
        }
    }
}
