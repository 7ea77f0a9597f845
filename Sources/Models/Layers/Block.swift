import Autograd
import Tensors

/// `x = x + dropout(mixer(norm(x)))`, then `x = x + dropout(mlp(norm(x)))` when there is an MLP.
///
/// With `residual: false` the sums are left out, and the output takes the mixer's own width: that is
/// the plain stack of torch's word language model. Names: `input_layernorm`, `self_attn.*` or
/// `mixer.*`, `post_attention_layernorm`, `mlp.*` under `model.layers.{i}`.
public final class Block: HiddenLayer {
    public let name: String
    public let uses: [ParameterUse]
    public let outputWidth: Int
    public let mixer: any SequenceMixer
    /// Recompute this block in the backward pass, whatever the schedule does.
    public var isRematerialized = false

    private let inputWidth: Int
    private let inputNorm: Norm
    private let mlp: FeedForward?
    private let mlpNorm: Norm?
    private let scaling: BranchScaling?
    private let hasResidual: Bool
    private let dropout: Double
    private let mixerDropoutStream, mlpDropoutStream: Int

    /// Beginnings of the names of its norms.
    static let normNames = ["input_layernorm.", "post_attention_layernorm."]

    init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        name = builder.prefix
        inputWidth = builder.inputWidth
        let normName = try reader.choice(
            "norm", of: NormKind.allCases.map(\.rawValue), default: builder.defaults.norm.rawValue)
        let norm = NormKind(rawValue: normName)!
        let epsilon = builder.defaults.normEpsilon
        hasResidual = try reader.bool("residual", default: true)
        dropout = try reader.double("dropout", default: builder.defaults.dropout, in: 0...0.99)
        inputNorm = Norm(norm, name: "input_layernorm", width: inputWidth, epsilon: epsilon, builder)

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
        mixerDropoutStream = builder.dropoutStream()
        mlpDropoutStream = builder.dropoutStream()
        if reader.has("mlp") {
            let mlpReader = try reader.section("mlp")
            mlpNorm = Norm(norm, name: "post_attention_layernorm", width: width, epsilon: epsilon, builder)
            mlp = try FeedForward(mlpReader, builder, width: width)
            try mlpReader.finish()
        } else {
            mlpNorm = nil
            mlp = nil
        }
        scaling = try BranchScaling(reader, builder, branchCount: mlp == nil ? 1 : 2)
        if scaling != nil, !hasResidual {
            throw reader.error(
                "residual", "layer_scale and depth_conditioning scale branches beside a residual; leave it on")
        }
        outputWidth = width
        uses = builder.uses
    }

    public func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
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
        let factors = scaling?.factors(tape)
        var (mixed, carryOut) = mixer.forward(inputNorm(x, tape), carry: carry, pass)
        if let factors { mixed = factors.branch(mixed, 0, tape) }
        var y = pass.dropout(mixed, rate: dropout, stream: mixerDropoutStream)
        if hasResidual { y = tape.add(x, y) }
        if let mlp, let mlpNorm {
            var z = mlp(mlpNorm(y, tape), tape)
            if let factors { z = factors.branch(z, 1, tape) }
            z = pass.dropout(z, rate: dropout, stream: mlpDropoutStream)
            y = hasResidual ? tape.add(y, z) : z
        }
        if let factors { y = factors.output(y, tape) }
        return (y, carryOut)
    }

    public func forwardFLOPsPerToken(time: Int) -> Double {
        mixer.flopsPerToken(time: time) + (mlp?.flopsPerToken ?? 0)
    }

    public var savedPerToken: Int {
        if isRematerialized { return inputWidth + outputWidth }
        return mixer.savedPerToken + inputWidth + outputWidth + (mlp.map { $0.savedPerToken + 2 * outputWidth } ?? 0)
    }

    public var chunkingObstacle: String? { mixer.chunkingObstacle }
    public func growingCarry(positions: Int) -> Int { mixer.growingCarry(positions: positions) }
}
