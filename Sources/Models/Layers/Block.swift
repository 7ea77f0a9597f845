import Autograd
import Tensors

/// `x = x + dropout(mixer(norm(x)))`, then `x = x + dropout(mlp(norm(x)))` when there is an MLP.
///
/// `norm_placement` says where the norms `N` stand (`NormPlacement`). With `residual: false` the sums are left out, and
/// the output takes the mixer's own width: that is the plain stack of torch's word language model. Names:
/// `input_layernorm`, `self_attn.*` or `mixer.*`, `post_mixer_layernorm`, `post_attention_layernorm`, `mlp.*`,
/// `post_mlp_layernorm` under `model.layers.{i}`; `BranchScaling` has those of factors on the branches.
public final class Block: HiddenLayer {
    public let name: String
    public let uses: [ParameterUse]
    public let outputWidth: Int
    public let mixer: any SequenceMixer
    /// Recompute this block in the backward pass, whatever the schedule does.
    public var isRematerialized = false
    /// Whether it works for an exit: on what comes along a link of that port, not on the activation.
    public let isExit: Bool

    private let inputWidth: Int
    private let keyValues: KeyValueUse
    /// In a group with routers, how many tokens come this far.
    private let budget: TokenBudget?
    /// In a recurrent depth, the iteration.
    private let lap: DepthLap?
    private let inputNorm, mixedNorm: Norm
    private let mlp: FeedForward?
    private let scaling: BranchScaling?
    private let lowRankCost: (saved: Int, flops: Double)
    private let mlpInputNorm, outputNorm: Norm
    private let hasResidual: Bool
    private let dropout: Double
    private let mixerDropoutStream, mlpDropoutStream: Int

    /// Beginnings of the names of its norms, and of its attention.
    static let normNames = [
        "input_layernorm.", "post_mixer_layernorm.", "post_attention_layernorm.", "post_mlp_layernorm.",
    ]
    static let attentionName = "self_attn."

    init(
        _ reader: ConfigurationReader, _ builder: LayerBuilder, isExit: Bool = false
    ) throws(ConfigurationError) {
        self.isExit = isExit
        name = builder.prefix
        inputWidth = builder.inputWidth
        keyValues = builder.sharing?.keyValues ?? .own
        budget = builder.sharing?.budget
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
        if let problem = Self.problem(mixer, keyValues, budget) { throw mixerReader.error("type", problem) }
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
        scaling = try BranchScaling(reader, builder, branchCount: mlp == nil ? 1 : 2)
        if scaling != nil, !hasResidual {
            throw reader.error(
                "residual", "layer_scale and depth_conditioning scale branches beside a residual; leave it on")
        }
        outputWidth = width
        uses = builder.uses
        lowRankCost = builder.lowRankCost
    }

    /// What a mixer cannot do, if it is to.
    private static func problem(
        _ mixer: any SequenceMixer, _ keyValues: KeyValueUse, _ budget: TokenBudget?
    ) -> String? {
        if keyValues != .own, !(mixer is AttentionMixer) {
            return "has no keys and values to share; use attention, or share_key_values: false"
        }
        guard let budget else { return nil }
        if (mixer as? AttentionMixer)?.window != nil {
            return "has a window, which routed tokens cannot be counted by; remove it, or the router"
        }
        if !budget.isExact, let obstacle = mixer.chunkingObstacle {
            return "cannot follow a router of type token, as \(obstacle); use type expert, or another mixer"
        }
        return nil
    }

    public func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        if isExit { return applyToExit(flow, carry: carry, pass) }
        return lap?.forward(flow, carry: carry, pass, apply) ?? apply(flow, carry: carry, pass)
    }

    private func applyToExit(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        // Generation follows one path only.
        guard let state = flow.exits.first else { return (flow, carry) }
        let (result, carryOut) = apply(Flow(state), carry: carry, pass)
        var flow = flow
        flow.leaving[.exit] = result.activation
        return (flow, carryOut)
    }

    private func apply(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        var flow = flow
        // No token of this micro-batch has come so far.
        if flow.selection?.time == 0 { return (flow, carry) }
        let inner = pass.over(flow.selection)
        var inputs = [flow.activation]
        if keyValues == .borrowed || keyValues == .updated {
            inputs += [flow.arriving[.keys]!, flow.arriving[.values]!]
        }
        let (outputs, carryOut) =
            isRematerialized && pass.tape.isRecording
            ? pass.tape.rematerialized(inputs, carry: carry, inner, compute) : compute(inputs, carry: carry, inner)
        flow.activation = outputs[0]
        if keyValues == .lent { (flow.leaving[.keys], flow.leaving[.values]) = (outputs[1], outputs[2]) }
        // Other tokens come here in the next batch: only generation goes on where it stopped.
        return (flow, budget == nil || pass.isGenerating ? carryOut : [])
    }

    /// - Parameter inputs: the activation, with shared keys and values where it borrows them.
    /// - Returns: the output, with keys and values where it lends them.
    private func compute(_ inputs: [Variable], carry: Carry, _ pass: Pass) -> ([Variable], Carry) {
        let (x, tape) = (inputs[0], pass.tape)
        let (normed, attention) = (inputNorm(x, tape), mixer as? AttentionMixer)
        var (carryOut, lent): (Carry, [Variable]) = ([], [])
        let factors = scaling?.factors(tape)
        var mixed: Variable
        switch keyValues {
        case .own: (mixed, carryOut) = mixer.forward(normed, carry: carry, pass)
        case .lent:
            let result = attention!.lending(normed, carry: carry, pass)
            (mixed, carryOut, lent) = (result.y, result.carry, [result.keys, result.values])
        case .borrowed, .updated:
            mixed = attention!.forward(
                normed, sharedKeys: inputs[1], sharedValues: inputs[2], updatesKeys: keyValues == .updated, pass)
        }
        if let factors { mixed = factors.branch(mixed, 0, tape) }
        var y = pass.dropout(mixed, rate: dropout, stream: mixerDropoutStream)
        y = mixedNorm(hasResidual ? tape.add(x, y) : y, tape)
        if let mlp {
            var z = mlp(mlpInputNorm(y, tape), tape)
            if let factors { z = factors.branch(z, 1, tape) }
            z = pass.dropout(z, rate: dropout, stream: mlpDropoutStream)
            y = outputNorm(hasResidual ? tape.add(y, z) : z, tape)
        }
        if let factors { y = factors.output(y, tape) }
        return ([y] + lent, carryOut)
    }

    public func forwardFLOPsPerToken(time: Int) -> Double {
        let count = budget?.expected(of: time) ?? time
        // Borrowed keys are those of all tokens.
        let visible = keyValues == .own ? count : time
        let flops = mixer.flopsPerToken(time: visible) + (mlp?.flopsPerToken ?? 0) + lowRankCost.flops
        return flops * runShare * Double(count) / Double(time)
    }

    public func backwardFLOPsPerToken(time: Int) -> Double { isForwardOnly ? 0 : 2 * forwardFLOPsPerToken(time: time) }

    public var runShare: Double { lap?.share ?? 1 }
    public var isForwardOnly: Bool { lap?.isForwardOnly ?? false }

    public var savedPerToken: Int {
        isForwardOnly ? 0 : isRematerialized ? floatsPerToken(inputWidth + outputWidth) : workPerToken
    }

    public var workPerToken: Int {
        floatsPerToken(
            inputWidth + outputWidth + mixer.savedPerToken + lowRankCost.saved + (scaling?.savedPerToken ?? 0)
                + (mlp.map { $0.savedPerToken + 2 * outputWidth } ?? 0))
    }

    /// - Parameter count: for each token that it works on.
    private func floatsPerToken(_ count: Int) -> Int {
        // Updated keys and values are copies of all.
        let copied = keyValues == .updated ? 2 * (mixer as! AttentionMixer).sharedWidth : 0
        return Int((Double(count) * (budget?.largestShare ?? 1)).rounded(.up)) + copied
    }

    public var chunkingObstacle: String? { mixer.chunkingObstacle }
    public var lookahead: Lookahead { mixer.lookahead }
    public var routesTokens: Bool { budget.map { !$0.isWhole } ?? false }
    public func outputTime(_ time: Int) -> Int { budget?.expected(of: time) ?? time }
    public func largestOutputTime(in pass: Pass) -> Int { budget?.limit(in: pass) ?? pass.time }
    public func growingCarry(positions: Int) -> Int { mixer.growingCarry(positions: positions) }
}
