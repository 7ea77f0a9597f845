import Autograd
import Kernels
import Tensors

/// Causal softmax attention with grouped queries, rotary positions and an optional sliding window.
///
/// `o_t = Σ_s softmax_s(q_t·k_s / √d) v_s` over positions `s ≤ t` (and `t − s < window`); query head
/// `h` uses key/value head `⌊h·Hkv/H⌋`. Names and shapes are those of Llama: `self_attn.q_proj.weight
/// [H·d, D]`, `k_proj`, `v_proj [Hkv·d, D]`, `o_proj [D, H·d]`.
/// Carry: `k`, `v` `[B, P, Hkv, d]` after rotation, `P` all past positions or the last `window − 1`.
/// Source: arXiv 1706.03762, 2104.09864 (rotary, half-split pairs), 2305.13245 (grouped queries).
public final class AttentionMixer: SequenceMixer {
    public static let name = "attention"

    let headCount: Int
    let keyValueHeadCount: Int
    let headSize: Int
    let window: Int?
    private let rotary: RotaryTable?
    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    /// Keys and values stay with their batch: carried on, they would grow without bound.
    public let streamStateNames: [String] = []
    private let query, key, value, output: Linear

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        headCount = try reader.int("head_count", default: nil, in: 1...4096)
        keyValueHeadCount = try reader.int("kv_head_count", default: headCount, in: 1...4096)
        if headCount % keyValueHeadCount != 0 {
            throw reader.error("kv_head_count", "\(keyValueHeadCount) does not divide head_count \(headCount)")
        }
        if !reader.has("head_size"), width % headCount != 0 {
            throw reader.error(
                "head_count", "\(headCount) does not divide the width \(width); choose a divisor or set head_size")
        }
        headSize = try reader.int("head_size", default: max(1, width / headCount), in: 1...1024)
        window = try reader.optionalInt("window", in: 1...Int(Int32.max))
        let isRotary = try reader.bool("rotary", default: builder.defaults.usesRotaryPositions)
        let theta = try reader.double("rope_theta", default: 10_000)
        if isRotary, headSize % 2 != 0 {
            throw reader.error(
                "head_size", "rotary positions need an even head size, not \(headSize); set rotary: false")
        }
        rotary = isRotary ? RotaryTable(headWidth: headSize, theta: theta) : nil
        let hasBias = try reader.bool("bias", default: false)
        outputWidth = width
        query = Linear("self_attn.q_proj", width, headCount * headSize, bias: hasBias, builder)
        key = Linear("self_attn.k_proj", width, keyValueHeadCount * headSize, bias: hasBias, builder)
        value = Linear("self_attn.v_proj", width, keyValueHeadCount * headSize, bias: hasBias, builder)
        output = Linear("self_attn.o_proj", headCount * headSize, width, bias: hasBias, builder)
    }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let geometry = AttentionGeometry(
            batch: pass.batch, time: pass.time, headCount: headCount, keyValueHeadCount: keyValueHeadCount,
            headSize: headSize, window: window, positionOffset: pass.positionOffset, rotary: rotary)
        let result = tape.attention(
            query: query(x, tape), key: key(x, tape), value: value(x, tape), pastKey: carry["k"],
            pastValue: carry["v"], geometry)
        let carryOut = [
            CarryTensor(name: "k", variable: result.keys, crossesBatches: false),
            CarryTensor(name: "v", variable: result.values, crossesBatches: false),
        ]
        return (output(result.output, tape), carryOut)
    }

    public func flopsPerToken(time: Int) -> Double {
        let visible = Double(min(time, window ?? time))
        let projections = 4 * headSize * (headCount + keyValueHeadCount) * outputWidth
        return Double(projections) + 2 * Double(headCount * headSize) * (visible + 1)
    }

    public func growingCarry(positions: Int) -> Int {
        2 * keyValueHeadCount * headSize * min(positions, window.map { $0 - 1 } ?? positions)
    }

    public var savedPerToken: Int { 2 * (headCount + keyValueHeadCount) * headSize + headCount }
}
