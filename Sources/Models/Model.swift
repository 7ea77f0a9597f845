import Autograd
import Tensors

/// A model as written in the configuration: an embedding, blocks, and a head. Building one declares
/// parameters without allocating them; a rank materialises only those of the layers it owns.
///
/// Keys of `model:`
/// - `vocabulary_size`: default that of the data. `width`: of the residual stream.
/// - `positions`: `rotary` (in attention layers, default) | `learned` (needs `max_positions`) | `none`.
/// - `norm`: `rmsnorm` | `layernorm` | `none`; `final_norm` (default `norm`); `norm_epsilon` (1e-5).
/// - `dropout` (0): embedding, residual branches; `head_dropout` (0).
/// - `tie_embeddings` (false), `head_bias` (false); `embedding_scale` (false): embeddings times `√width`.
/// - `initialization`: `normal` (default) | `glorot_uniform` | `takase` (`Initialization`); `initializer_range` (0.02),
///   of `normal`; `embedding_init_range`: embedding and head uniform on ±range instead.
/// - `layers`: a list of blocks (`mixer`, `mlp`, `norm`, `norm_placement`, `residual`, `dropout`, and the keys of
///   `BranchScaling`) and groups; either may
///   carry `repeat: n`, and a group holds `layers` of its own, so `repeat: 2` round three LSTM blocks
///   and one attention block is a hybrid of eight.
///   A group with a `recursion` section is a shared block (`Recursion`).
/// - `skips`: a list of `{from: i, to: j}` that add layer `i`'s output to layer `j`'s input.
public final class Model {
    public let registry: ParameterRegistry
    public let embedding: EmbeddingLayer
    /// The layers between; a shared block stands here once for every application.
    public let hidden: [any HiddenLayer]
    public let head: HeadLayer
    public let width: Int
    public let vocabularySize: Int
    /// Connections past layers: the skips first.
    public let links: [LayerLink]
    /// The shared blocks.
    public let recursions: [Recursion]

    /// Embedding, hidden layers and head: what the pipeline cuts.
    public let layers: [any ModelLayer]
    public var layerCount: Int { layers.count }
    /// What layers add to the loss beside the cross-entropy, in the order of the layers.
    public let auxiliaryTerms: [AuxiliaryLosses.Key]
    /// What layers tell of themselves in evaluation, in the order of the layers.
    public let statisticTerms: [AuxiliaryLosses.Key]

    /// - Parameter dataVocabularySize: used when the configuration names none, and checked when it does.
    /// - Throws: `ConfigurationError` at the offending key.
    public init(_ reader: ConfigurationReader, dataVocabularySize: Int?) throws(ConfigurationError) {
        let registry = ParameterRegistry()
        let vocabularySize = try reader.int("vocabulary_size", default: dataVocabularySize, in: 1...100_000_000)
        if let dataVocabularySize, vocabularySize < dataVocabularySize {
            throw reader.error(
                "vocabulary_size",
                "\(vocabularySize) is smaller than the data's vocabulary of \(dataVocabularySize); raise it or remove the key"
            )
        }
        let width = try reader.int("width", default: nil, in: 1...1_000_000)
        let positions = try reader.choice("positions", of: ["rotary", "learned", "none"], default: "rotary")
        let norms = NormKind.allCases.map(\.rawValue)
        let norm = try reader.choice("norm", of: norms, default: NormKind.rmsNorm.rawValue)
        let finalNorm = try reader.choice("final_norm", of: norms, default: norm)
        let dropout = try reader.double("dropout", default: 0, in: 0...0.99)
        let headDropout = try reader.double("head_dropout", default: 0, in: 0...0.99)
        let isTied = try reader.bool("tie_embeddings", default: false)
        let hasHeadBias = try reader.bool("head_bias", default: false)
        var defaults = LayerDefaults(
            norm: NormKind(rawValue: norm)!,
            normEpsilon: try reader.double("norm_epsilon", default: 1e-5),
            dropout: dropout,
            usesRotaryPositions: positions == "rotary",
            initialization: try reader.choice("initialization", default: .normal),
            initializerRange: try reader.double("initializer_range", default: 0.02),
            modelWidth: width)
        let isScaled = try reader.bool("embedding_scale", default: false)
        var embeddingInitializer = defaults.embeddingInitializer
        if reader.has("embedding_init_range") {
            embeddingInitializer = .uniform(bound: Float(try reader.double("embedding_init_range", default: nil)))
        }
        let maximumPositions =
            positions == "learned"
            ? try reader.int("max_positions", default: nil, in: 1...100_000_000) : nil

        func builder(
            _ prefix: String, _ index: Int, _ inputWidth: Int, sharing: LayerSharing? = nil
        ) -> LayerBuilder {
            LayerBuilder(
                registry: registry, prefix: prefix, layerIndex: index, inputWidth: inputWidth, defaults: defaults,
                sharing: sharing)
        }
        embedding = EmbeddingLayer(
            vocabularySize: vocabularySize, width: width, scale: isScaled ? Float(width).squareRoot() : 1,
            maximumPositions: maximumPositions, initializer: embeddingInitializer, dropout: dropout,
            builder("model", 0, width))

        let entries = try reader.sections("layers")
        _ = try LayerStack.depth(entries, \.maximum)
        defaults.depth = try LayerStack.depth(entries, \.mean)
        let stack = LayerStack(registry, defaults, width: width, finalNorm: NormKind(rawValue: finalNorm)!)
        try stack.append(entries)
        try stack.appendExits()
        if stack.layers.isEmpty { throw reader.error("layers", "at least one layer is needed") }
        let lastWidth = stack.width
        if isTied, lastWidth != width {
            throw reader.error(
                "tie_embeddings",
                "the last layer's width \(lastWidth) differs from the embedding's \(width); make them equal or untie")
        }
        let headIndex = stack.layers.count + 1
        head = HeadLayer(
            vocabularySize: vocabularySize, norm: NormKind(rawValue: finalNorm)!,
            tiedTo: isTied ? "model.embed_tokens.weight" : nil, hasBias: hasHeadBias, dropout: headDropout,
            initializer: embeddingInitializer, exits: stack.earlyExit,
            builder("model", headIndex, lastWidth, sharing: .all(isFirst: !stack.usesFinalNorm)),
            builder("lm_head", headIndex, lastWidth))
        let skips = try LayerLink.readSkips(reader, layers: [embedding] + stack.layers)
        if !skips.isEmpty, stack.earlyExit != nil {
            throw reader.error("skips", "early_exit leads past layers by itself; remove one of the two")
        }
        links = skips + stack.links
        if links.count > LayerLink.countLimit {
            throw reader.error(
                "layers", "\(links.count) connections past layers; at most \(LayerLink.countLimit) are possible")
        }
        hidden = stack.layers
        recursions = stack.recursions
        layers = [embedding] + hidden + [head]
        auxiliaryTerms = hidden.flatMap { layer in
            layer.auxiliaryTerms.map { AuxiliaryLosses.Key(layer: layer.name, term: $0) }
        }
        statisticTerms = layers.flatMap { layer in
            layer.statisticTerms.map { AuxiliaryLosses.Key(layer: layer.name, term: $0) }
        }
        self.registry = registry
        self.width = width
        self.vocabularySize = vocabularySize
    }

    /// Whether it has one shared block, applied as a whole again and again, which a ring of ranks can hold once.
    public var canFormRings: Bool { recursions.count == 1 && recursions[0].sharing == .cycle }

    /// Width of the activation that leaves layer `index`.
    public func outputWidth(ofLayer index: Int) -> Int { layers[index].outputWidth }

    /// How many blocks come before a layer: the number that files give to the state of a block.
    public func blockNumber(ofLayer index: Int) -> Int { layers[..<index].reduce(0) { $0 + ($1 is Block ? 1 : 0) } }

    /// The first layer that cannot be cut into sequence chunks, with the reason.
    public var chunkingObstacle: (layer: String, reason: String)? {
        for layer in layers {
            if let reason = layer.chunkingObstacle { return (layer.name, reason) }
        }
        return nil
    }

    /// Forward and backward, per token, at sequence length `time`.
    public func trainingFLOPsPerToken(time: Int) -> Double {
        layers.dropFirst().reduce(0) {
            $0 + $1.forwardFLOPsPerToken(time: time) + $1.backwardFLOPsPerToken(time: time)
        }
    }
}
