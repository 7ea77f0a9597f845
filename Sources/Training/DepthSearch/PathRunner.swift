import Autograd
import Kernels
import Models
import Pipeline
import Tensors

/// Runs a trained model with any chain of its layers: left out, repeated, in any order ("Skip a layer or loop it?",
/// arXiv 2507.07996). Embedding and head stay where they are.
///
/// What a layer keeps between chunks and batches belongs to its position in the chain, so a repeated layer keeps it once for
/// every time. On one rank; belongs to its thread.
public final class PathRunner {
    private let model: Model
    private let context: ComputeContext
    private let layers: [any HiddenLayer]

    /// Layers that a chain may name, by their number: `model.layers.0` is 0.
    public var layerCount: Int { layers.count }

    /// How a model with one chain did on one sequence.
    public struct Score: Sendable, Equatable {
        /// Sum over counted tokens, in nats.
        public var loss: Double
        /// Counted tokens whose target has the largest logit.
        public var hits: Int
        public var tokens: Int

        public var meanLoss: Double { loss / Double(max(1, tokens)) }
        /// Every counted token is right.
        public var isCorrect: Bool { hits == tokens }
    }

    /// Sequences of one length, flattened: `[B, T]` each.
    struct Sequences {
        var inputs: [Int32]
        var targets: [Int32]
        let time: Int
        var count: Int { inputs.count / time }
    }

    /// - Throws: `RunError.usage` when layers cannot be moved about.
    public init(model: Model, context: ComputeContext) throws(RunError) {
        let other = model.hidden.first { $0.outputWidth != model.width }
        if let other {
            throw .usage(
                "layer '\(other.name)' changes the width from \(model.width) to \(other.outputWidth); only layers that keep it can be skipped and repeated"
            )
        }
        if let link = model.links.first {
            throw .usage(
                "layer \(link.from) is connected to layer \(link.to) past the layers between; only plain models can be run as a chain"
            )
        }
        if let router = model.hidden.first(where: \.routesTokens) {
            throw .usage(
                "layer '\(router.name)' lets only some tokens through; only plain models can be run as a chain")
        }
        self.model = model
        self.context = context
        layers = model.hidden
    }

    /// - Throws: `RunError.usage` naming the layer that is not there.
    public func check(_ path: [Int]) throws(RunError) {
        if let bad = path.first(where: { !layers.indices.contains($0) }) {
            throw .usage("the path names layer \(bad); the model has layers 0 to \(layers.count - 1)")
        }
    }

    /// Loss and hits over `batches` in the units that a pipeline would run: the chain of all layers in order has the bits
    /// of `Session.evaluate`.
    ///
    /// - Parameter isStream: batches continue each other, as `Batch.resetsCarry` says.
    public func evaluate(
        _ batches: some Sequence<TokenBatch>, path: [Int], microBatchCount: Int, chunkCount: Int, isStream: Bool = false
    ) -> Session.Evaluation {
        var result = Session.Evaluation()
        var state = [[Carry]](repeating: [], count: microBatchCount)
        for batch in batches {
            let cut = BatchCut(
                rows: batch.rows, time: batch.time, microBatchCount: microBatchCount, chunkCount: chunkCount)
            var loss = 0.0
            var hitCounts = [Int](repeating: 0, count: batch.rows)
            for m in 0..<microBatchCount {
                let rows = cut.rows(ofMicroBatch: m)
                let tokens = rows.lowerBound * batch.time..<rows.upperBound * batch.time
                let sequences = Sequences(
                    inputs: Array(batch.inputs[tokens]), targets: Array(batch.targets[tokens]), time: batch.time)
                let before = isStream && !batch.restarts[0] ? state[m] : []
                let after = forEachChunk(of: sequences, path: path, cut: cut, carries: before) { losses, hits in
                    loss += losses.reduce(0) { $0 + Double($1) }
                    let time = hits.count / max(1, rows.count)
                    for (i, row) in rows.enumerated() {
                        hitCounts[row] += hits[i * time..<(i + 1) * time].reduce(0) { $0 + Int($1) }
                    }
                }
                state[m] = after.map { $0.filter(\.crossesBatches) }
            }
            result.loss += loss
            result.add(hitCounts: hitCounts, targetCounts: batch.targetCounts)
        }
        return result
    }

    /// One score for each sequence.
    func scores(_ sequences: Sequences, path: [Int]) -> [Score] {
        let (count, time) = (sequences.count, sequences.time)
        var scores: [Score] = []
        let cut = BatchCut(rows: count, time: time, microBatchCount: 1, chunkCount: 1)
        _ = forEachChunk(of: sequences, path: path, cut: cut, carries: []) { losses, hits in
            scores = (0..<count).map { row in
                let tokens = row * time..<(row + 1) * time
                return Score(
                    loss: losses[tokens].reduce(0) { $0 + Double($1) }, hits: hits[tokens].reduce(0) { $0 + Int($1) },
                    tokens: sequences.targets[tokens].reduce(0) { $0 + ($1 >= 0 ? 1 : 0) })
            }
        }
        return scores
    }

    /// - Parameters:
    ///   - carries: by position in the chain; empty is the zero state.
    ///   - body: gets loss and hit of every row of a chunk, in order.
    /// - Returns: the state after the sequences.
    private func forEachChunk(
        of sequences: Sequences, path: [Int], cut: BatchCut, carries: [Carry],
        _ body: (_ losses: [Float], _ hits: [Int32]) -> Void
    ) -> [Carry] {
        guard sequences.count > 0 else { return [] }
        var carries = carries.isEmpty ? [Carry](repeating: [], count: path.count) : carries
        for chunk in 0..<cut.chunkCount {
            let positions = cut.positions(ofChunk: chunk)
            let pass = Pass(
                tape: Tape(context, isRecording: false), batch: sequences.count, time: positions.count,
                positionOffset: positions.lowerBound, samples: (0..<UInt32(sequences.count)).map { $0 },
                isTraining: false)
            func part(_ all: [Int32]) -> [Int32] {
                (0..<sequences.count).flatMap {
                    all[$0 * sequences.time + positions.lowerBound..<$0 * sequences.time + positions.upperBound]
                }
            }
            var flow = Flow(
                part(sequences.inputs).withUnsafeBufferPointer {
                    model.embedding.forward($0.baseAddress!, pass)
                })
            for (position, layer) in path.enumerated() {
                (flow, carries[position]) = layers[layer].forward(flow, carry: carries[position], pass)
            }
            let (losses, hits) = tokenScores(flow.activation, part(sequences.targets), pass)
            body(losses, hits)
        }
        return carries
    }

    private func tokenScores(_ x: Variable, _ targets: [Int32], _ pass: Pass) -> (losses: [Float], hits: [Int32]) {
        let logits = model.head.logits(x, pass)
        var losses = [Float](repeating: 0, count: targets.count)
        var hits = [Int32](repeating: 0, count: targets.count)
        CrossEntropy.losses(
            logits.pointer, targets: targets, into: &losses, rows: targets.count, classes: model.vocabularySize,
            threads: context.threads)
        CrossEntropy.hits(
            logits.pointer, targets: targets, into: &hits, rows: targets.count, classes: model.vocabularySize,
            threads: context.threads)
        return (losses, hits)
    }
}
