import Autograd
import Glibc
import Kernels
import Tensors

/// Retention: linear attention that forgets at a fixed rate per head, with rotary positions.
///
/// `S_t = γ_h S_{t−1} + k_t v_tᵀ`, `o_t = K^{−½} q_tᵀ S_t`, `γ_h = 1 − 2^{−5−h}`;
/// `y = o_proj(RMSNorm_head(o) ⊙ silu(g_proj x))`.
///
/// Keys and names: those of `MemoryHeads` with `expand_v` 2, `output_gate` true, `short_conv` false; `rotary` (true),
/// `rope_theta` (10000).
/// Parameters: `D(K(H + Hkv) + V(2H + Hkv)) + V`, `DHV` less without the gate, and the convolutions.
/// Carry: `S [B, H, K, V]` and the convolutions' histories. With rotary positions it stays with its batch: keys in it
/// are rotated by their position in the sequence.
/// Cost per token: projections, and `H(64(K + V) + 4KV)` for the memory.
/// Source: arXiv 2307.08621.
public final class RetNetMixer: SequenceMixer {
    public static let name = "retnet"

    private let heads: MemoryHeads
    private let rotary: RotaryTable?
    public let outputWidth: Int

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        heads = try MemoryHeads(
            reader, builder,
            MemoryHeads.Defaults(expandValue: 2, hasOutputGate: true, hasShortConvolution: false))
        let isRotary = try reader.bool("rotary", default: true)
        let theta = try reader.double("rope_theta", default: 10_000, above: 0)
        if isRotary, heads.keyWidth % 2 != 0 {
            throw reader.error("rotary", "rotary positions need an even key width, not \(heads.keyWidth)")
        }
        rotary = isRotary ? RotaryTable(headWidth: heads.keyWidth, theta: theta) : nil
        outputWidth = builder.inputWidth
    }

    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { rotary == nil ? ["S"] + heads.carryNames : [] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        var (q, k, v, carryOut) = heads.project(x, carry: carry, pass)
        if let rotary {
            q = tape.rotary(q, pass.batch, pass.time, positionOffset: pass.positionOffset, rotary)
            k = tape.rotary(k, pass.batch, pass.time, positionOffset: pass.positionOffset, rotary)
        }
        let (o, state) = tape.matrixMemory(
            query: Columns(q), key: Columns(k), value: Columns(v), logDecay: Variable(decays(pass)),
            past: MatrixMemoryState(state: carry["S"]),
            heads.shape(pass, scale: Float(1 / Double(heads.keyWidth).squareRoot())))
        carryOut = [CarryTensor(name: "S", variable: state.state!)] + carryOut
        if rotary != nil {
            carryOut = carryOut.map { CarryTensor(name: $0.name, variable: $0.variable, crossesBatches: false) }
        }
        return (heads.finish(o, x, tape), carryOut)
    }

    /// `log γ_h` for every token, `[B·T, H]`.
    private func decays(_ pass: Pass) -> Tensor {
        let result = pass.tape.context.tensor(Shape(pass.rows, heads.headCount))
        let rates = (0..<heads.headCount).map { Float(log1p(-exp2(-5 - Double($0)))) }
        for row in 0..<pass.rows {
            for (head, rate) in rates.enumerated() { result.pointer[row * rates.count + head] = rate }
        }
        return result
    }

    public func flopsPerToken(time: Int) -> Double { heads.flopsPerToken(time: time) }
    public var savedPerToken: Int { heads.savedPerToken() }
}
