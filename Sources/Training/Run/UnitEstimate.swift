import Autograd
import Models
import Pipeline
import Tensors

/// Seconds that one unit of work spends in one layer.
public struct LayerTiming: Hashable, Sendable {
    public var forward: Double
    public var inputGradient: Double
    public var weightGradient: Double

    public init(forward: Double, inputGradient: Double, weightGradient: Double) {
        self.forward = forward
        self.inputGradient = inputGradient
        self.weightGradient = weightGradient
    }

    public var total: Double { forward + inputGradient + weightGradient }
}

/// What one unit of work costs in every layer of a model: seconds, measured or from FLOPs, and bytes.
///
/// Micro-batches and chunks may differ by a row or a position; the largest unit stands for all.
struct UnitEstimate {
    /// Rows and positions, flattened.
    let tokens: Int
    let timings: [LayerTiming]
    /// Parameters, gradients, what the other replicas have of this one's share of them, and optimiser state.
    let fixedBytes: [Int]
    /// Sent to the other replicas once as gradients and once as values.
    let exchangedBytes: [Int]
    /// Kept from a recorded forward to the weight gradient.
    let activationBytes: [Int]
    /// While a layer runs, gradients of what it saved lie beside it, and messages come and go; the head holds a
    /// block of logits.
    let temporaryBytes: [Int]
    /// Of the activation that enters each layer; 0 for token ids.
    private let inputBytes: [Int]

    init(
        model: Model, cut: BatchCut, replicaCount: Int, optimizerCopies: Int, timings measured: [LayerTiming]?,
        flopsPerSecond: Double
    ) {
        let layers = model.layers
        let rows = (cut.rows + cut.totalMicroBatchCount - 1) / cut.totalMicroBatchCount
        let tokens = rows * ((cut.time + cut.chunkCount - 1) / cut.chunkCount)
        self.tokens = tokens
        timings =
            measured
            ?? layers.map { layer in
                let scale = Double(tokens) / flopsPerSecond
                let backward = layer.backwardFLOPsPerToken(time: cut.time) * scale
                return LayerTiming(
                    forward: layer.forwardFLOPsPerToken(time: cut.time) * scale, inputGradient: backward / 2,
                    weightGradient: backward / 2)
            }
        fixedBytes = layers.map { layer in
            layer.uses.reduce(0) { sum, use in
                let count = use.parameter.shape.count
                let share = (count + replicaCount - 1) / replicaCount
                return sum + 4 * (2 * count + (replicaCount - 1 + optimizerCopies) * share)
            }
        }
        let headRows = Tape.crossEntropyBlockRows(rows: tokens, vocabulary: model.vocabularySize)
        exchangedBytes = layers.map { layer in
            layer.uses.reduce(0) { $0 + 4 * $1.parameter.shape.count } * (replicaCount - 1) / replicaCount
        }
        activationBytes = layers.enumerated().map { index, layer in
            // A single block of logits waits for the weight gradient.
            let logits = index == layers.count - 1 && headRows == tokens ? model.vocabularySize : 0
            let arriving = model.links.filter { $0.to == index }.reduce(0) { $0 + $1.width }
            // What earlier chunks carried in lies beside its gradient.
            let past = cut.chunkCount > 1 ? 2 * rows * layer.growingCarry(positions: cut.time) : 0
            return 4 * ((layer.savedPerToken + logits + arriving) * tokens + past)
        }
        let inputWidths = layers.indices.map { $0 == 0 ? 0 : layers[$0 - 1].outputWidth }
        inputBytes = layers.indices.map { index in
            let share = index == 0 ? 0 : layers[index - 1].outputShare
            return 4 * Int((Double(inputWidths[index] * tokens) * share).rounded(.up))
        }
        temporaryBytes = layers.enumerated().map { index, layer in
            let isHead = index == layers.count - 1
            let work = max(layer.savedPerToken * tokens, isHead ? headRows * model.vocabularySize : 0)
            let messageWidth = max(inputWidths[index], isHead ? 0 : layer.outputWidth)
            return 4 * (work + 4 * messageWidth * tokens)
        }
    }

    func layerCosts(isRecomputed: Bool) -> [LayerCost] {
        timings.indices.map {
            LayerCost(
                time: timings[$0].total + (isRecomputed ? timings[$0].forward : 0), fixedBytes: fixedBytes[$0],
                activationBytes: activationBytes[$0])
        }
    }

    func stageCost(_ layers: Range<Int>) -> StageCost {
        func sum(_ path: KeyPath<LayerTiming, Double>) -> Double {
            layers.reduce(0) { $0 + timings[$1][keyPath: path] }
        }
        return StageCost(
            forward: sum(\.forward), inputGradient: sum(\.inputGradient), weightGradient: sum(\.weightGradient),
            outputBytes: layers.upperBound == inputBytes.count ? 0 : inputBytes[layers.upperBound],
            activationBytes: layers.reduce(0) { $0 + activationBytes[$1] },
            // The gradients that weight gradients wait for are those of products, some of what is kept.
            gradientBytes: layers.reduce(0) { $0 + activationBytes[$1] } / 2, inputBytes: inputBytes[layers.lowerBound])
    }
}
