import Autograd
import Kernels
import Tensors

/// LightNet: a matrix memory whose decay is the ratio of running normalisers, so that every key channel holds a softmax-weighted
/// mean of the values so far.
///
/// Per head and channel `z_t = log Σ_{s≤t} e^{k_s}`, `κ_t = e^{k_t − z_t}`, `g_t = z_{t−1} − z_t`;
/// `S_t = diag(e^{g_t}) S_{t−1} + κ_t v_tᵀ`, `o_t = K^{−½} silu(q_t)ᵀ S_t`; `y = o_proj(RMSNorm(o) ⊙ silu(g_proj x))`, the norm over
/// all heads together.
///
/// Keys: `head_count`, `expand_ratio` `K` (128), `gate_low_rank` `r` (128), `norm_eps` (1e-6).
/// Parameters: `mixer.q_proj.weight`, `k_proj.weight [H·K, D]`, `v_proj.weight`, `o_proj.weight [D, D]`, `g_proj.0.weight [r, D]`,
/// `g_proj.1.weight [D, r]`, `g_norm.weight [D]`: `2D(HK + D + r) + D`.
/// Carry: `S [B, H, K, D/H]`, `z [B, H·K]`; adding a constant to one channel of all keys changes nothing but `z`.
/// Cost per token: `4D(HK + D + r)` and `H(64(K + V) + 4KV)`, with `4HK` exponentials.
/// Source: arXiv 2405.21022.
public final class LightNetMixer: SequenceMixer {
    public static let name = "lightnet"

    private let headCount, keyWidth, gateRank: Int
    private let query, key, value, gateDown, gateUp, output: Linear
    private let norm: GatedNorm
    public let outputWidth: Int

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        outputWidth = width
        headCount = try reader.int("head_count", default: nil, in: 1...4096)
        if width % headCount != 0 {
            throw reader.error("head_count", "\(headCount) does not divide the width \(width)")
        }
        keyWidth = try reader.int("expand_ratio", default: 128, in: 1...65536)
        gateRank = try reader.int("gate_low_rank", default: 128, in: 1...65536)
        let epsilon = Float(try reader.double("norm_eps", default: 1e-6, in: 0...1))
        query = Linear("mixer.q_proj", width, headCount * keyWidth, bias: false, builder)
        key = Linear("mixer.k_proj", width, headCount * keyWidth, bias: false, builder)
        value = Linear("mixer.v_proj", width, width, bias: false, builder)
        gateDown = Linear("mixer.g_proj.0", width, gateRank, bias: false, builder)
        gateUp = Linear("mixer.g_proj.1", gateRank, width, bias: false, builder)
        norm = GatedNorm(
            "mixer.g_norm", GatedNormShape(groupCount: 1, groupWidth: width, gate: .silu, epsilon: epsilon), builder)
        output = Linear("mixer.o_proj", width, width, bias: false, builder)
    }

    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { ["S", "z"] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let keys = tape.runningSoftmax(key(x, tape), past: carry["z"], batch: pass.batch, time: pass.time)
        let (o, state) = tape.channelMemory(
            query: tape.activation(.silu, query(x, tape)), key: keys.weight, value: value(x, tape),
            logDecay: keys.logDecay, past: carry["S"],
            ChannelMemoryShape(
                batch: pass.batch, time: pass.time, headCount: headCount, keyWidth: keyWidth,
                valueWidth: outputWidth / headCount, scale: Float(1 / Double(keyWidth).squareRoot())))
        let y = norm(o, gate: gateUp(gateDown(x, tape), tape), tape)
        return (
            output(y, tape),
            [CarryTensor(name: "S", variable: state), CarryTensor(name: "z", variable: keys.z)]
        )
    }

    public func flopsPerToken(time: Int) -> Double {
        let valueWidth = outputWidth / headCount, chunk = min(time, MatrixMemoryShape.chunk)
        let memory = headCount * (chunk * (keyWidth + valueWidth) + 4 * keyWidth * valueWidth)
        return Double(4 * outputWidth * (headCount * keyWidth + outputWidth + gateRank) + memory)
    }

    public var savedPerToken: Int {
        4 * headCount * keyWidth + 4 * outputWidth + gateRank + keyWidth * outputWidth / MatrixMemoryShape.chunk
    }
}
