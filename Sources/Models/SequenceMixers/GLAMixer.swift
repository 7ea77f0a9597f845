import Autograd
import Kernels
import Tensors

/// Gated linear attention: a matrix memory that forgets at a rate computed from the token, per key channel or per head.
///
/// `S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ`, `o_t = K^{−½} q_tᵀ S_t`, `g = max(log σ(W x + b) / normalizer, clamp_min)`;
/// `y = o_proj(RMSNorm_head(o) ⊙ silu(g_proj x))`.
///
/// Keys and names: those of `MemoryHeads` with `expand_k` 0.5, `output_gate` true, `short_conv` false; `gate` (vector | scalar),
/// `gate_low_rank` (16), `gate_logit_normalizer` (16), `clamp_min` (none).
/// Parameters: those of `MemoryHeads`, `D(K(H + Hkv) + V(2H + Hkv)) + V`, and for a vector gate
/// `mixer.gk_proj.0.weight [r, D]`, `gk_proj.1.weight [Hkv·K, r]`, `gk_proj.1.bias`; for a scalar one `gk_proj.weight [H, D]`, `gk_proj.bias`.
/// Carry: `S [B, H, K, V]` and the convolutions' histories.
/// Cost per token: projections, and `H(64(K + V) + 4KV)` for the memory; a vector gate adds `HK` exponentials.
/// Source: arXiv 2312.06635.
public final class GLAMixer: SequenceMixer {
    public static let name = "gla"

    private enum Gate {
        case vector(down: Linear, up: Linear)
        case scalar(Linear)
    }

    private let heads: MemoryHeads
    private let gate: Gate
    private let gateWidths: [Int]
    private let normalizer: Double
    private let clamp: Float?
    public let outputWidth: Int

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        outputWidth = width
        heads = try MemoryHeads(
            reader, builder,
            MemoryHeads.Defaults(expandKey: 0.5, hasOutputGate: true, hasShortConvolution: false))
        let isVector = try reader.choice("gate", of: ["vector", "scalar"], default: "vector") == "vector"
        let rank = try reader.int("gate_low_rank", default: 16, in: 1...65536)
        normalizer = try reader.double("gate_logit_normalizer", default: 16, above: 0)
        clamp = try reader.optionalDouble("clamp_min", below: 0).map { Float($0) }
        if isVector {
            let channels = heads.keyValueHeadCount * heads.keyWidth
            gate = .vector(
                down: Linear("mixer.gk_proj.0", width, rank, bias: false, builder),
                up: Linear("mixer.gk_proj.1", rank, channels, bias: true, builder))
            gateWidths = [width, rank, channels]
        } else {
            gate = .scalar(Linear("mixer.gk_proj", width, heads.headCount, bias: true, builder))
            gateWidths = [width, heads.headCount]
        }
    }

    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { ["S"] + heads.carryNames }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (q, k, v, histories) = heads.project(x, carry: carry, pass)
        let scale = Float(1 / Double(heads.keyWidth).squareRoot())
        let o: Variable
        let state: Variable
        switch gate {
        case .vector(let down, let up):
            (o, state) = tape.channelMemory(
                query: q, key: k, value: v, logDecay: decay(up(down(x, tape), tape), tape), past: carry["S"],
                ChannelMemoryShape(
                    batch: pass.batch, time: pass.time, headCount: heads.headCount,
                    keyHeadCount: heads.keyValueHeadCount, keyWidth: heads.keyWidth, valueWidth: heads.valueWidth,
                    scale: scale))
        case .scalar(let projection):
            let result = tape.matrixMemory(
                query: Columns(q), key: Columns(k), value: Columns(v), logDecay: decay(projection(x, tape), tape),
                past: MatrixMemoryState(state: carry["S"]), heads.shape(pass, scale: scale))
            (o, state) = (result.output, result.state.state!)
        }
        return (heads.finish(o, x, tape), [CarryTensor(name: "S", variable: state)] + histories)
    }

    private func decay(_ logits: Variable, _ tape: Tape) -> Variable {
        tape.logSigmoid(logits, factor: Float(1 / normalizer), floor: clamp)
    }

    public func flopsPerToken(time: Int) -> Double {
        heads.flopsPerToken(time: time)
            + zip(gateWidths, gateWidths.dropFirst()).reduce(0) { $0 + Double(2 * $1.0 * $1.1) }
    }

    public var savedPerToken: Int { heads.savedPerToken() + 2 * gateWidths.last! + gateWidths[1] }
}
