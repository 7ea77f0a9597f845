import Autograd
import Tensors

/// Token embedding, times a factor, learned positions when the model has them, dropout.
///
/// Parameters: `model.embed_tokens.weight [V, D]`, `model.embed_positions.weight [max_positions, D]`.
public final class EmbeddingLayer: ModelLayer {
    public let name = "model.embed_tokens"
    public let uses: [ParameterUse]
    public let outputWidth: Int
    public let vocabularySize: Int
    /// Longest sequence that learned positions allow; nil when there is no limit.
    public let maximumPositions: Int?
    private let tokens: ParameterUse
    private let positions: ParameterUse?
    private let scale: Float
    private let dropout: Double
    private let dropoutStream: Int

    init(
        vocabularySize: Int, width: Int, scale: Float, maximumPositions: Int?, initializer: Initializer,
        dropout: Double,
        _ builder: LayerBuilder
    ) {
        self.vocabularySize = vocabularySize
        self.maximumPositions = maximumPositions
        self.scale = scale
        self.dropout = dropout
        outputWidth = width
        tokens = builder.matrix("embed_tokens.weight", vocabularySize, width, initializer)
        positions = maximumPositions.map { builder.matrix("embed_positions.weight", $0, width, initializer) }
        dropoutStream = builder.dropoutStream()
        uses = builder.uses
    }

    /// - Parameter ids: `[B·T]`, each in `0 ..< vocabularySize`.
    public func forward(_ ids: UnsafePointer<Int32>, _ pass: Pass) -> Variable {
        var x = pass.tape.embedding(ids, rows: pass.rows, weight: tokens)
        if scale != 1 { x = pass.tape.scale(x, by: scale) }
        if let positions {
            x = pass.tape.addPositions(x, time: pass.time, positionOffset: pass.positionOffset, weight: positions)
        }
        return pass.dropout(x, rate: dropout, stream: dropoutStream)
    }

    public func forwardFLOPsPerToken(time: Int) -> Double { Double(outputWidth) }
    public var savedPerToken: Int { outputWidth }
}
