import Communication
import Models
import Pipeline
import Tensors

/// Continues a prompt with the trained model, under the same pipeline that trained it.
public final class TextGenerator {
    private let session: Session
    private let vocabulary: Vocabulary

    public init(session: Session, data: DataSet) {
        self.session = session
        vocabulary = data.vocabulary
    }

    /// What came of a request.
    public struct Result: Sendable, Equatable {
        /// Prompts included.
        public var texts: [String]
        /// Of the shared block per token, with an exit rule (`StreamDecoder.meanIterations`).
        public var meanIterations: Double?
    }

    /// `request.samples` texts. Collective; the same on every rank, and for any number of ranks.
    /// Replicas all do the same.
    ///
    /// - Parameter onText: called on rank 0 with each piece of a single text as it comes; several texts, which the
    ///   ranks work on at the same time, come whole.
    /// - Throws: when the prompt cannot be encoded, or the model cannot follow the exit rule.
    public func generate(
        _ request: RunConfiguration.GenerateSection, onText: (String) -> Void = { _ in }
    ) throws -> Result {
        let isReporter = session.communicator.rank == 0
        if let problem = request.exit?.problem(
            session.model, stageLayers: session.plan.stageLayers, placement: session.plan.placement)
        {
            throw RunError.usage("generate.exit: \(problem)")
        }
        let prompt = try vocabulary.encode(request.prompt)
        let samplers = (0..<request.samples).map { Sampler(request.sampling, stream: $0) }
        var positions = Array(repeating: 0, count: request.samples)
        let decoder = try StreamDecoder(
            model: session.model, stageLayers: session.plan.stageLayers, placement: session.plan.placement,
            // A model needs something to continue; without a prompt the first entry of the vocabulary stands in.
            prompts: Array(repeating: prompt.isEmpty ? [0] : prompt, count: request.samples),
            communicator: session.pipeline, context: session.context, exit: request.exit
        ) { [count = vocabulary.count] stream, logits in
            defer { positions[stream] += 1 }
            return Int32(samplers[stream].next(.init(rebasing: logits[..<count]), position: positions[stream]))
        }
        for _ in 0..<request.tokens {
            try decoder.advance()
            guard request.samples == 1 else { continue }
            let next = try decoder.latestTokens()
            if isReporter { onText(vocabulary.decode(next)) }
        }
        let texts = try decoder.drawnTokens().map { vocabulary.decode(prompt + $0) }
        if isReporter, request.samples > 1 { onText(texts.joined(separator: "\n\n")) }
        return Result(texts: texts, meanIterations: try decoder.meanIterations())
    }
}
