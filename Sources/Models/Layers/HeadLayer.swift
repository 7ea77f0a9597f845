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
    /// What the loss is made of, with the factor of each: the last exit's cross-entropy first.
    public let lossTerms: [(name: String, weight: Double)]
    private let inputWidth: Int
    private let norm: Norm
    private let weight: ParameterUse
    private let bias: ParameterUse?
    private let dropout: Double
    private let dropoutStream: Int
    private let exits: EarlyExit?

    init(
        vocabularySize: Int, norm kind: NormKind, tiedTo tied: String?, hasBias: Bool, dropout: Double,
        initializer: Initializer, exits: EarlyExit?, _ builder: LayerBuilder, _ rootBuilder: LayerBuilder
    ) {
        self.exits = exits
        lossTerms = exits?.terms ?? [("cross_entropy", 1)]
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

    /// The summed token losses of a flow `[B·T, D]` and of its exits, and, on a recording tape, their gradients.
    ///
    /// - Parameters:
    ///   - targets: `[B·T]`; negative ids are ignored.
    ///   - scales: `[B·T]`, factors on the gradients of the rows: 1 ÷ tokens of the whole batch, or what else a row weighs.
    ///   - logits: when given, `[B·T, V]` of the last exit is also stored there.
    /// - Returns: that of the last exit, then the others in order.
    public func losses(
        _ flow: Flow, targets: UnsafePointer<Int32>, scales: [Float], logits: Tensor? = nil, _ pass: Pass
    ) -> [LossSum] {
        require(
            flow.exits.count == exits?.count ?? 0,
            "HeadLayer: \(flow.exits.count) exits have come; expected \(exits?.count ?? 0)")
        func loss(_ x: Variable, weight alpha: Double, logits: Tensor?, teacher: LossTeacher?) -> LossSum {
            pass.tape.crossEntropy(
                x, targets: targets, weight: weight, bias: bias,
                scales: alpha == 1 ? scales : scales.map { $0 * Float(alpha) }, logits: logits, teacher: teacher)
        }
        let last = prepared(flow.activation, pass)
        let result = loss(last, weight: lossTerms[0].weight, logits: logits, teacher: nil)
        guard let exits else { return [result] }
        let teacher = exits.distillation > 0 ? LossTeacher(last, share: Float(exits.distillation)) : nil
        let others = zip(flow.exits, exits.weights).map {
            loss(prepared($0, pass), weight: $1, logits: nil, teacher: teacher)
        }
        if let statistics = pass.statistics {
            let count = (0..<pass.rows).reduce(0) { $0 + (targets[$1] >= 0 ? 1 : 0) }
            for (term, loss) in zip(statisticTerms, others) {
                statistics.report(sum: loss.total!, count: count, term, of: name)
            }
        }
        return [result] + others
    }

    /// Sums over counted tokens of the loss terms without their factors, from what `losses` returned.
    public func termTotals(_ losses: [LossSum]) -> [Double] {
        [losses[0].total ?? 0]
            + losses.dropFirst().flatMap { loss in
                [loss.total ?? 0] + (exits!.distillation > 0 ? [loss.divergence] : [])
            }
    }

    /// Cross-entropy of the exits before the last.
    public var statisticTerms: [String] { (0..<(exits?.count ?? 0)).map { "exit_\($0 + 1)_loss" } }

    /// `[R, V]` for `x [R, D]`; evaluation only.
    public func logits(_ x: Variable, _ pass: Pass) -> Tensor {
        pass.tape.linear(prepared(x, pass), weight: weight, bias: bias).value
    }

    private func prepared(_ x: Variable, _ pass: Pass) -> Variable {
        pass.dropout(norm(x, pass.tape), rate: dropout, stream: dropoutStream)
    }

    /// Whether exits learn from the last one.
    public var hasTeacher: Bool { exits.map { $0.distillation > 0 } ?? false }
    /// Exits, the last one included.
    public var exitCount: Int { 1 + (exits?.count ?? 0) }

    public func forwardFLOPsPerToken(time: Int) -> Double { Double(2 * inputWidth * vocabularySize * exitCount) }
    public var savedPerToken: Int { 2 * inputWidth * exitCount }
}
