import Autograd
import Kernels
import Tensors

/// Final norm, dropout, output projection, and the cross-entropy fused with it.
///
/// Parameters: `model.norm.weight [D]` (and `.bias`), `lm_head.weight [V, D]` unless tied to
/// `model.embed_tokens.weight`, `lm_head.bias [V]` with `head_bias: true`.
public final class HeadLayer: ModelLayer {
    public let name = "lm_head"
    public let uses: [ParameterUse]
    public let vocabularySize: Int
    public var outputWidth: Int { vocabularySize }
    private let inputWidth: Int
    private let norm: Norm
    private let weight: ParameterUse
    private let bias: ParameterUse?
    private let dropout: Double
    private let dropoutStream: Int

    init(
        vocabularySize: Int, norm kind: NormKind, tiedTo tied: String?, hasBias: Bool, dropout: Double,
        initializer: Initializer, _ builder: LayerBuilder, _ rootBuilder: LayerBuilder
    ) {
        self.vocabularySize = vocabularySize
        self.dropout = dropout
        inputWidth = builder.inputWidth
        norm = Norm(kind, name: "norm", width: inputWidth, epsilon: builder.defaults.normEpsilon, builder)
        weight =
            tied.map { rootBuilder.tied(to: $0) }
            ?? rootBuilder.matrix("weight", vocabularySize, inputWidth, initializer)
        bias = hasBias ? rootBuilder.vector("bias", vocabularySize, .constant(0)) : nil
        dropoutStream = builder.dropoutStream()
        uses = builder.uses + rootBuilder.uses
    }

    /// The summed token loss of `x [B·T, D]`, and, on a recording tape, its gradients.
    ///
    /// - Parameters:
    ///   - targets: `[B·T]`; negative ids are ignored.
    ///   - scales: `[B·T]`, factors on the gradients of the rows: 1 ÷ tokens of the whole batch, or what else a row weighs.
    ///   - logits: when given, `[B·T, V]` is also stored there.
    public func loss(
        _ x: Variable, targets: UnsafePointer<Int32>, scales: [Float], logits: Tensor? = nil, _ pass: Pass
    ) -> LossSum {
        pass.tape.crossEntropy(
            prepared(x, pass), targets: targets, weight: weight, bias: bias, scales: scales, logits: logits)
    }

    /// `[R, V]` for `x [R, D]`; evaluation only.
    public func logits(_ x: Variable, _ pass: Pass) -> Tensor {
        pass.tape.linear(prepared(x, pass), weight: weight, bias: bias).value
    }

    private func prepared(_ x: Variable, _ pass: Pass) -> Variable {
        pass.dropout(norm(x, pass.tape), rate: dropout, stream: dropoutStream)
    }

    public func forwardFLOPsPerToken(time: Int) -> Double { Double(2 * inputWidth * vocabularySize) }
    public var savedPerToken: Int { 2 * inputWidth }
}
