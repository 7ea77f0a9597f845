import Autograd
import Tensors

/// `x = x + dropout(mixer(norm(x)))`, then `x = x + dropout(mlp(norm(x)))` when there is an MLP.
///
/// `norm_placement` says where the norms `N` stand (`NormPlacement`). With `residual: false` the sums are left out, and
/// the output takes the mixer's own width: that is the plain stack of torch's word language model. Names:
/// `input_layernorm`, `self_attn.*` or `mixer.*`, `post_mixer_layernorm`, `post_attention_layernorm`, `mlp.*`,
/// `post_mlp_layernorm` under `model.layers.{i}`.
public final class Block: HiddenLayer {
    public let name: String
    public let uses: [ParameterUse]
    public let outputWidth: Int
    public let mixer: any SequenceMixer
    /// Recompute this block in the backward pass, whatever the schedule does.
    public var isRematerialized = false

    private let inputWidth: Int
    /// In a recurrent depth, the iteration.
    private let lap: DepthLap?
    private let inputNorm, mixedNorm: Norm
    private let mlp: FeedForward?
    private let lowRankCost: (saved: Int, flops: Double)
    private let mlpInputNorm, outputNorm: Norm
    private let hasResidual: Bool
    private let dropout: Double
    private let mixerDropoutStream, mlpDropoutStream: Int

    /// Beginnings of the names of its norms.
    static let normNames = [
        "input_layernorm.", "post_mixer_layernorm.", "post_attention_layernorm.", "post_mlp_layernorm.",
    ]

    init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        name = builder.prefix
        inputWidth = builder.inputWidth
        lap = builder.sharing?.lap
        let normName = try reader.choice(
            "norm", of: NormKind.allCases.map(\.rawValue), default: builder.defaults.norm.rawValue)
        let norm = NormKind(rawValue: normName)!
        let placement: NormPlacement = try reader.choice("norm_placement", default: .pre)
        func makeNorm(_ name: String, width: Int, exists: Bool) -> Norm {
            Norm(exists ? norm : .none, name: name, width: width, epsilon: builder.defaults.normEpsilon, builder)
        }
        hasResidual = try reader.bool("residual", default: true)
        dropout = try reader.double("dropout", default: builder.defaults.dropout, in: 0...0.99)
        inputNorm = makeNorm("input_layernorm", width: inputWidth, exists: placement != .post)

        let mixerReader = try reader.section("mixer")
        mixer = try SequenceMixers.make(mixerReader, builder)
        try mixerReader.finish()
        if hasResidual, mixer.outputWidth != inputWidth {
            throw reader.error(
                "mixer",
                "its output width \(mixer.outputWidth) differs from the width \(inputWidth) of the residual; set output_projection: true, an equal hidden_size, or residual: false"
            )
        }
        let width = mixer.outputWidth
        mixedNorm = makeNorm("post_mixer_layernorm", width: width, exists: placement != .pre)
        mixerDropoutStream = builder.dropoutStream()
        mlpDropoutStream = builder.dropoutStream()
        if reader.has("mlp") {
            let mlpReader = try reader.section("mlp")
            mlpInputNorm = makeNorm("post_attention_layernorm", width: width, exists: placement != .post)
            mlp = try FeedForward(mlpReader, builder, width: width)
            try mlpReader.finish()
        } else {
            mlpInputNorm = makeNorm("", width: width, exists: false)
            mlp = nil
        }
        outputNorm = makeNorm("post_mlp_layernorm", width: width, exists: mlp != nil && placement != .pre)
        outputWidth = width
        uses = builder.uses
        lowRankCost = builder.lowRankCost
    }

    public func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        lap?.forward(flow, carry: carry, pass, apply) ?? apply(flow, carry: carry, pass)
    }

    private func apply(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        var flow = flow
        // No token of this micro-batch has come so far.
        if flow.selection?.time == 0 { return (flow, carry) }
        let pass = pass.over(flow.selection)
        let carryOut: Carry
        if isRematerialized, pass.tape.isRecording {
            let (outputs, carry) = pass.tape.rematerialized([flow.activation], carry: carry, pass) {
                let (y, carryOut) = self.compute($0[0], carry: $1, $2)
                return ([y], carryOut)
            }
            (flow.activation, carryOut) = (outputs[0], carry)
        } else {
            (flow.activation, carryOut) = compute(flow.activation, carry: carry, pass)
        }
        return (flow, carryOut)
    }

    private func compute(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (mixed, carryOut) = mixer.forward(inputNorm(x, tape), carry: carry, pass)
        var y = pass.dropout(mixed, rate: dropout, stream: mixerDropoutStream)
        y = mixedNorm(hasResidual ? tape.add(x, y) : y, tape)
        if let mlp {
            let z = pass.dropout(mlp(mlpInputNorm(y, tape), tape), rate: dropout, stream: mlpDropoutStream)
            y = outputNorm(hasResidual ? tape.add(y, z) : z, tape)
        }
        return (y, carryOut)
    }

    public func forwardFLOPsPerToken(time: Int) -> Double {
        (mixer.flopsPerToken(time: time) + (mlp?.flopsPerToken ?? 0) + lowRankCost.flops) * (lap?.share ?? 1)
    }

    public func backwardFLOPsPerToken(time: Int) -> Double { isForwardOnly ? 0 : 2 * forwardFLOPsPerToken(time: time) }

    public var isForwardOnly: Bool { lap?.isForwardOnly ?? false }

    public var savedPerToken: Int {
        if isForwardOnly { return 0 }
        if isRematerialized { return inputWidth + outputWidth }
        return mixer.savedPerToken + lowRankCost.saved + inputWidth + outputWidth
            + (mlp.map { $0.savedPerToken + 2 * outputWidth } ?? 0)
    }

    public var chunkingObstacle: String? { mixer.chunkingObstacle }
    public func growingCarry(positions: Int) -> Int { mixer.growingCarry(positions: positions) }
}
