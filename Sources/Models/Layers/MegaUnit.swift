import Autograd
import Kernels
import Tensors

/// The unit of MEGA around any `move(x̂)` that mixes neighbouring tokens per channel: gated single-head attention within
/// chunks of `C` tokens. Norm and residual are inside, so the block around it has neither (`norm: none, residual: false`).
///
///     x̂ = LN(x)    v = silu(v_proj x̂)    [u | z r | hx] = mx_proj silu(move(x̂))    z, r = silu
///     q = z ⊙ gamma_0 + beta_0,  k = z ⊙ gamma_1 + beta_1,  o = weights(q·k, bias) v
///     out = x + σ(u) ⊙ (silu(hx + h_proj(o ⊙ r)) − x)                     without prenorm: x̂ = x, LN(out)
///
/// Keys: `chunk_size` C; `zdim` Z (128), `hdim` h (2D); `attention_activation` softmax | laplace | relu2; `prenorm` (true).
/// Names: `mixer.norm.norm.{weight,bias} [D]`, `v_proj [h, D]`, `mx_proj [2D + Z + h, D]`, `h_proj [D, h]`, each with bias,
/// `gamma`, `beta` `[2, Z]`, `rel_pos_bias.rel_pos_bias [2C − 1]`: `D(2D + 3h + Z) + 5D + 2h + 5Z + 2C − 1` parameters.
/// Carry: `k [B, P, Z]`, `v [B, P, h]` of the chunk that the last token leaves unfinished, and that of `move`.
/// Source: arXiv 2209.10655, section 3; the authors' code.
final class MegaUnit {
    let width: Int
    private let chunk, keyWidth, valueWidth: Int
    private let weighting: ChunkedAttention.Weighting
    private let isPrenorm: Bool
    private let norm: Norm
    private let value, mixed, hidden: Linear
    private let gamma, beta, bias: ParameterUse

    init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        width = builder.inputWidth
        chunk = try reader.int("chunk_size", default: nil, in: 1...1_000_000)
        keyWidth = try reader.int("zdim", default: 128, in: 1...4096)
        valueWidth = try reader.int("hdim", default: 2 * width, in: 1...1_000_000)
        weighting = try reader.choice("attention_activation", default: ChunkedAttention.Weighting.softmax)
        isPrenorm = try reader.bool("prenorm", default: true)
        norm = Norm(.layerNorm, name: "mixer.norm.norm", width: width, epsilon: builder.defaults.normEpsilon, builder)
        value = Linear("mixer.v_proj", width, valueWidth, bias: true, builder)
        mixed = Linear("mixer.mx_proj", width, 2 * width + keyWidth + valueWidth, bias: true, builder)
        hidden = Linear("mixer.h_proj", valueWidth, width, bias: true, builder)
        let normal = Initializer.normal(standardDeviation: Float(builder.defaults.initializerRange))
        gamma = builder.tensor("mixer.gamma", Shape(2, keyWidth), normal, decays: false)
        beta = builder.tensor("mixer.beta", Shape(2, keyWidth), .constant(0), decays: false)
        bias = builder.vector("mixer.rel_pos_bias.rel_pos_bias", 2 * chunk - 1, normal)
    }

    func forward(
        _ x: Variable, carry: Carry, _ pass: Pass, move: (Variable) -> (Variable, Carry)
    ) -> (Variable, Carry) {
        let tape = pass.tape
        let normed = isPrenorm ? norm(x, tape) : x
        let v = tape.activation(.silu, value(normed, tape))
        let (moved, moveCarry) = move(normed)
        let pieces = tape.linear(
            tape.activation(.silu, moved), weight: mixed.weight, bias: mixed.bias,
            splitting: [width, keyWidth, valueWidth, width])
        let qk = tape.affinePair(tape.activation(.silu, pieces[1]), weight: gamma, bias: beta)
        var past: (k: Variable, v: Variable)?
        if let pastKeys = carry["k"], let pastValues = carry["v"] { past = (pastKeys, pastValues) }
        let attended = tape.chunkedAttention(
            queriesAndKeys: qk, values: v, bias: bias, past: past, batch: pass.batch, time: pass.time, chunk: chunk,
            weighting: weighting)
        let o = hidden(tape.swiGLU(gate: pieces[2], up: attended.output), tape)
        let y = tape.highway(x, gate: pieces[0], pieces[3], o)
        var carryOut = moveCarry
        if let (k, v) = attended.past {
            carryOut.append(CarryTensor(name: "k", variable: k, crossesBatches: false))
            carryOut.append(CarryTensor(name: "v", variable: v, crossesBatches: false))
        }
        return (isPrenorm ? y : norm(y, tape), carryOut)
    }

    /// Projections and attention; `move` comes on top.
    func flopsPerToken(time: Int) -> Double {
        let weights = [value, mixed, hidden].reduce(0) { $0 + $1.weight.shape.count }
        return Double(2 * weights) + Double((keyWidth + valueWidth) * (min(time, chunk) + 1))
    }

    var savedPerToken: Int { 8 * width + 4 * keyWidth + 6 * valueWidth }
}
