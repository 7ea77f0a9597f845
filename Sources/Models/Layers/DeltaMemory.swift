import Autograd
import Kernels
import Tensors

/// What the mixers of the delta family share: projections, short convolutions, the delta rule, the output norm.
///
///     q, k, v = conv(x Wᵀ)      β = σ(b_proj x), doubled for negative eigenvalues      g = −e^{A_log} softplus(a_proj x + dt_bias)
///     S ← e^g S;  n times: S ← S + k (β (v − Sᵀk))ᵀ;  o = K^(−½) Sᵀq                   with unit q, k per head
///     y = o_proj(RMSNorm_head(o) ⊙ silu(g_proj x))
///
/// Names, `H` key heads, `Hv` value heads, `n` steps, rows ordered step, head, feature: `mixer.q_proj.weight [H·K, D]`,
/// `k_proj [n·H·K, D]`, `v_proj [n·Hv·V, D]`, `a_proj [Hv, D]`, `b_proj [n·Hv, D]`, `A_log [Hv]`, `dt_bias [Hv]`,
/// `{q,k,v}_conv1d.weight [C, 1, W]`, `g_proj [Hv·V, D]`, `o_norm.weight [V]`, `o_proj [D, Hv·V]`.
/// Carry: `S [B, Hv, K, V]`, and `conv_q`, `conv_k`, `conv_v` `[B, W−1, C]`.
final class DeltaMemory {
    struct Design {
        let keyHeadCount, valueHeadCount, headSize, valueHeadSize: Int
        /// Delta steps of a token, `n`.
        var stepCount = 1
        /// `a_proj`, `A_log`, `dt_bias`.
        var hasDecay = false
        /// The output gate `g_proj`.
        let hasGate: Bool
        /// `β` in (0, 2) instead of (0, 1).
        let allowsNegativeEigenvalues: Bool
        /// Applied to queries and keys after the convolution; values always take silu.
        var keyActivation: Activation? = .silu
        /// Taps of the short convolutions; nil for none.
        let convolutionSize: Int?

        /// Reads the keys that the family shares; see the mixers.
        init(
            _ reader: ConfigurationReader, width: Int, valueExpansion: Int, gates: Bool, negativeEigenvalues: Bool
        ) throws(ConfigurationError) {
            keyHeadCount = try reader.int("head_count", default: nil, in: 1...4096)
            if !reader.has("head_size"), width % keyHeadCount != 0 {
                throw reader.error(
                    "head_count",
                    "\(keyHeadCount) does not divide the width \(width); choose a divisor or set head_size")
            }
            headSize = try reader.int("head_size", default: max(1, width / keyHeadCount), in: 1...1024)
            valueHeadCount = try reader.int("value_head_count", default: keyHeadCount, in: 1...4096)
            if valueHeadCount % keyHeadCount != 0 {
                throw reader.error(
                    "value_head_count", "\(valueHeadCount) is not a multiple of head_count \(keyHeadCount)")
            }
            valueHeadSize = try reader.int("value_head_size", default: valueExpansion * headSize, in: 1...1024)
            hasGate = try reader.bool("use_gate", default: gates)
            allowsNegativeEigenvalues = try reader.bool("allow_neg_eigval", default: negativeEigenvalues)
            let taps = try reader.int("conv_size", default: 4, in: 2...64)
            convolutionSize = try reader.bool("use_short_conv", default: true) ? taps : nil
        }
    }

    let design: Design
    let outputWidth: Int
    private let query, key, value, beta, output: Linear
    private let decay: (projection: Linear, logRate: ParameterUse, bias: ParameterUse)?
    private let queryConvolution, keyConvolution, valueConvolution: ShortConvolution?
    private let gate: Linear?
    private let norm: GatedNorm

    init(_ design: Design, _ builder: LayerBuilder) {
        self.design = design
        let width = builder.inputWidth, n = design.stepCount
        let queryWidth = design.keyHeadCount * design.headSize,
            valueWidth = design.valueHeadCount * design.valueHeadSize
        outputWidth = width
        func project(_ name: String, _ rows: Int) -> Linear {
            Linear("mixer.\(name)", width, rows, bias: false, builder)
        }
        func convolution(_ name: String, _ channels: Int, _ activation: Activation?) -> ShortConvolution? {
            design.convolutionSize.map {
                ShortConvolution(
                    "mixer.\(name)_conv1d", carry: "conv_\(name)", channels: channels, taps: $0,
                    bias: false, silu: activation == .silu, builder)
            }
        }
        query = project("q_proj", queryWidth)
        key = project("k_proj", n * queryWidth)
        value = project("v_proj", n * valueWidth)
        if design.hasDecay {
            decay = (
                project("a_proj", design.valueHeadCount),
                // Rates U(0, 16), kept off zero, whose logarithm would not be finite.
                builder.vector("mixer.A_log", design.valueHeadCount, .logUniform(low: 1e-3, high: 16)),
                builder.vector("mixer.dt_bias", design.valueHeadCount, .stepBias(low: 1e-3, high: 0.1, floor: 1e-4))
            )
        } else {
            decay = nil
        }
        beta = project("b_proj", n * design.valueHeadCount)
        queryConvolution = convolution("q", queryWidth, design.keyActivation)
        keyConvolution = convolution("k", n * queryWidth, design.keyActivation)
        valueConvolution = convolution("v", n * valueWidth, .silu)
        gate = design.hasGate ? project("g_proj", valueWidth) : nil
        norm = GatedNorm(
            "mixer.o_norm",
            GatedNormShape(
                groupCount: design.valueHeadCount, groupWidth: design.valueHeadSize,
                gate: design.hasGate ? .silu : .none, sharesWeight: true, epsilon: Float(builder.defaults.normEpsilon)),
            builder)
        output = Linear("mixer.o_proj", valueWidth, width, bias: false, builder)
    }

    var streamStateNames: [String] {
        ["S"] + [queryConvolution, keyConvolution, valueConvolution].compactMap { $0?.carryName }
    }

    func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        var carryOut: Carry = []
        func prepared(_ projection: Linear, _ convolution: ShortConvolution?, _ activation: Activation?) -> Variable {
            let raw = projection(x, tape)
            guard let convolution else { return activation.map { tape.activation($0, raw) } ?? raw }
            let (y, past) = convolution(raw, carry: carry, pass)
            carryOut.append(past)
            guard let activation, activation != .silu else { return y }
            return tape.activation(activation, y)
        }
        let q = prepared(query, queryConvolution, design.keyActivation)
        let k = prepared(key, keyConvolution, design.keyActivation)
        let v = prepared(value, valueConvolution, .silu)
        var strength = tape.activation(.sigmoid, beta(x, tape))
        if design.allowsNegativeEigenvalues { strength = tape.scale(strength, by: 2) }
        let logDecay = decay.map {
            tape.decayGate($0.projection(x, tape), bias: $0.bias, logRate: $0.logRate).logDecay
        }
        let (o, state) = tape.deltaRule(
            q: q, k: k, v: v, beta: strength, logDecay: logDecay, state: carry["S"],
            DeltaRuleShape(
                batch: pass.batch, tokens: pass.time, steps: design.stepCount, keyHeads: design.keyHeadCount,
                valueHeads: design.valueHeadCount, keyWidth: design.headSize, valueWidth: design.valueHeadSize))
        let y = output(norm(o, gate: gate.map { $0(x, tape) }, tape), tape)
        return (y, [CarryTensor(name: "S", variable: state)] + carryOut)
    }

    /// Projections, convolutions, and the rule itself in chunks of 64 rows.
    var flopsPerToken: Double {
        let (n, K, V) = (Double(design.stepCount), Double(design.headSize), Double(design.valueHeadSize))
        let rows = 64.0
        let projections = [query, key, value, beta, output, gate, decay?.projection].compactMap {
            $0.map { Double(2 * $0.weight.shape.count) }
        }
        let convolutions = [queryConvolution, keyConvolution, valueConvolution].compactMap { $0?.flopsPerToken }
        let rule = 2 * rows * (n + 1) * K + rows * (n + 2) * V + (4 * n + 2) * K * V
        return (projections + convolutions).reduce(Double(design.valueHeadCount) * rule, +)
    }

    /// Inputs of convolutions, rule, norm and output projection, and the states kept.
    var savedPerToken: Int {
        let (n, H) = (design.stepCount, design.valueHeadCount)
        let queries = design.keyHeadCount * design.headSize, values = H * design.valueHeadSize
        let inputs = (n + 1) * queries + n * values
        let states = n * H * design.headSize * design.valueHeadSize / 64
        return (design.convolutionSize == nil ? 1 : 2) * inputs + (design.hasGate ? 3 : 2) * values + states
            + H * (2 * n + 3)
    }
}
