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

    func scaled(by factor: Double) -> LayerTiming {
        LayerTiming(
            forward: factor * forward, inputGradient: factor * inputGradient, weightGradient: factor * weightGradient)
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
    /// Parameters, gradients, what the other replicas have of this one's share of them, and optimiser state; as if the
    /// layer shared nothing with others of its rank.
    let fixedBytes: [Int]
    /// Of one unit's message along each link of the model.
    let linkBytes: [Int]
    private let links: [LayerLink]
    private let uses: [[ParameterUse]]
    private let optimizerBytes: (Int) -> Int
    /// Sent to the other replicas once as gradients and once as values.
    let exchangedBytes: [Int]
    /// Kept from a recorded forward to the weight gradient.
    let activationBytes: [Int]
    /// While a layer runs, gradients of what it saved lie beside it, and messages come and go; the head holds a
    /// block of logits.
    let temporaryBytes: [Int]
    /// Of the activation that enters each layer; 0 for token ids.
    private let inputBytes: [Int]
    /// As above at most, where tokens are routed with their numbers.
    private let lineBytes: [Int]

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
        uses = layers.map(\.uses)
        func optimizerBytes(_ count: Int) -> Int {
            4 * (replicaCount - 1 + optimizerCopies) * ((count + replicaCount - 1) / replicaCount)
        }
        self.optimizerBytes = optimizerBytes
        fixedBytes = layers.map { layer in
            layer.uses.reduce(0) { sum, use in
                let count = use.parameter.shape.count
                return sum + (use.hasGradient ? 8 : 4) * count + optimizerBytes(count)
            }
        }
        let length = (cut.time + cut.chunkCount - 1) / cut.chunkCount
        let linkBytes = model.links.map {
            4 * $0.width * $0.rows(batch: rows, time: length, positionOffset: cut.time - length)
        }
        (links, self.linkBytes) = (model.links, linkBytes)
        let headRows = Tape.crossEntropyBlockRows(rows: tokens, vocabulary: model.vocabularySize)
        exchangedBytes = layers.map { layer in
            layer.uses.reduce(0) { $0 + 4 * $1.parameter.shape.count } * (replicaCount - 1) / replicaCount
        }
        activationBytes = layers.enumerated().map { index, layer in
            // A single block of logits waits for the weight gradient.
            let logits =
                index == layers.count - 1 && headRows == tokens ? model.vocabularySize * model.head.exitCount : 0
            let arriving = model.links.indices.filter { model.links[$0].to == index }.reduce(0) { $0 + linkBytes[$1] }
            // What earlier chunks carried in lies beside its gradient.
            let past = cut.chunkCount > 1 ? 2 * rows * layer.growingCarry(positions: cut.time) : 0
            return 4 * ((layer.savedPerToken + logits) * tokens + past) + arriving
        }
        let inputWidths = layers.indices.map { $0 == 0 ? 0 : layers[$0 - 1].outputWidth }
        inputBytes = inputWidths.enumerated().map { index, width in
            index == 0 ? 0 : 4 * width * rows * layers[index - 1].outputTime(length)
        }
        lineBytes = inputWidths.enumerated().map { index, width in
            index == 0 ? 0 : 4 * (width + (layers[index - 1].routesTokens ? 1 : 0)) * tokens
        }
        temporaryBytes = layers.enumerated().map { index, layer in
            let isHead = index == layers.count - 1
            let logits = isHead ? headRows * model.vocabularySize * (model.head.hasTeacher ? 2 : 1) : 0
            let work = max(layer.workPerToken * tokens, logits)
            let messageWidth = max(inputWidths[index], isHead ? 0 : layer.outputWidth)
            return 4 * (work + 4 * messageWidth * tokens)
        }
    }

    /// What a rank with these layers keeps from step to step: a value and optimiser state for every parameter, gradients
    /// for every use-site.
    func stateBytes(_ layers: [Int]) -> Int {
        var seen: Set<ObjectIdentifier> = []
        return layers.flatMap { uses[$0] }.reduce(0) { sum, use in
            let count = use.parameter.shape.count
            let isNew = seen.insert(ObjectIdentifier(use.parameter)).inserted
            return sum + (use.hasGradient ? 4 * count : 0) + (isNew ? 4 * count + optimizerBytes(count) : 0)
        }
    }

    /// Bytes of gradients that each rank sends at the end of a step, to all others that share a parameter.
    ///
    /// - Parameter layers: of each rank.
    func tiedBytes(_ layers: [[Int]]) -> [Int] {
        let used = layers.map { Dictionary(grouping: $0.flatMap { uses[$0] }) { ObjectIdentifier($0.parameter) } }
        return used.indices.map { rank in
            used[rank].reduce(0) { sum, entry in
                let peers = used.indices.filter { $0 != rank && used[$0][entry.key] != nil }.count
                return sum + entry.value.filter(\.hasGradient).count * peers * 4 * entry.value[0].parameter.shape.count
            }
        }
    }

    /// Messages along links between a rank's layers and others that may have come before their turn, as far as
    /// receives look ahead.
    func linkMessageBytes(_ layers: [Int]) -> Int {
        let owned = Set(layers)
        return zip(links, linkBytes).reduce(0) { sum, link in
            sum + (owned.contains(link.0.from) == owned.contains(link.0.to) ? 0 : 4 * link.1)
        }
    }

    /// Messages on the line that wait for their sends to end, of which each stage may have a window full. Those of one
    /// recorded stage are among its temporaries.
    ///
    /// - Parameters:
    ///   - stages: of one rank.
    ///   - unitCount: of a stage in one step.
    func lineMessageBytes(_ stages: [Range<Int>], forwardOnly: (Range<Int>) -> Bool, unitCount: Int) -> Int {
        let held = min(unitCount, LoweringOptions().sendWindow)
        func bytes(_ stage: Range<Int>) -> Int {
            held
                * (lineBytes[stage.lowerBound]
                    + (stage.upperBound < lineBytes.count ? lineBytes[stage.upperBound] : 0))
        }
        let recorded = stages.filter { !forwardOnly($0) }.map(bytes)
        return stages.filter(forwardOnly).map(bytes).reduce(0, +) + recorded.reduce(0, +) - (recorded.max() ?? 0)
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
