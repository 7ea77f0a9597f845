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

    /// Collective. The same text on every rank.
    ///
    /// - Parameter onText: called on rank 0 with each piece as it comes.
    /// - Throws: when the prompt cannot be encoded.
    public func generate(
        _ request: RunConfiguration.GenerateSection, onText: (String) -> Void = { _ in }
    ) throws -> String {
        let communicator = session.communicator
        let decoder = StreamDecoder(
            model: session.model, layers: session.ownedLayers, communicator: communicator, context: session.context)
        let sampler = Sampler(request.sampling)
        // A model needs something to continue; without a prompt the first entry of the vocabulary stands in.
        let prompt = try vocabulary.encode(request.prompt)
        var logits = try decoder.advance(prompt.isEmpty ? [0] : prompt)
        var ids = prompt
        for position in 0..<request.tokens {
            var next: Int32 = 0
            if let logits {
                let values = UnsafeBufferPointer(start: UnsafePointer(logits.pointer), count: vocabulary.count)
                next = Int32(sampler.next(values, position: position))
            }
            try withUnsafeMutableBytes(of: &next) { try communicator.broadcast($0, root: communicator.size - 1) }
            ids.append(next)
            if communicator.rank == 0 { onText(vocabulary.decode([next])) }
            if position < request.tokens - 1 { logits = try decoder.advance([next]) }
        }
        return vocabulary.decode(ids)
    }
}
