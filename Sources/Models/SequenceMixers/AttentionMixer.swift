import Autograd
import Kernels
import Tensors

/// Causal softmax attention with grouped queries, rotary positions and an optional sliding window.
///
/// `o_t = Σ_s softmax_s(q_t·k_s / √d) v_s` over positions `s ≤ t` (and `t − s < window`); query head
/// `h` uses key/value head `⌊h·Hkv/H⌋`. Names and shapes are those of Llama: `self_attn.q_proj.weight
/// [H·d, D]`, `k_proj`, `v_proj [Hkv·d, D]`, `o_proj [D, H·d]`.
/// `qk_bias`: `self_attn.qk_bias [2, 1, H, d]`, added to queries and keys before rotation; a key/value head is then first
/// repeated for each of its query heads, whose biases differ (arXiv 2502.05171).
/// Carry: `k`, `v` `[B, P, Hkv, d]` after rotation, `P` all past positions or the last `window − 1`.
/// Source: arXiv 1706.03762, 2104.09864 (rotary), 2305.13245 (grouped queries).
public final class AttentionMixer: SequenceMixer {
    public static let name = "attention"

    let headCount: Int
    let keyValueHeadCount: Int
    let headSize: Int
    package let window: Int?
    private let rotary: RotaryTable?
    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    /// Keys and values stay with their batch: carried on, they would grow without bound.
    public let streamStateNames: [String] = []
    private let query, output: Linear
    /// Nil in an application that attends to another's keys and values only.
    private let key, value: Linear?
    private let bias: ParameterUse?

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
        let pairs = try reader.choice("rotary_pairs", as: RotaryPairs.self, default: .half)
        rotary = isRotary ? RotaryTable(headWidth: headSize, theta: theta, pairs: pairs) : nil
        let hasBias = try reader.bool("bias", default: false)
        let hasScoreBias = try reader.bool("qk_bias", default: false)
        outputWidth = width
        query = Linear("self_attn.q_proj", width, headCount * headSize, bias: hasBias, builder)
        if builder.sharing?.keyValues == .borrowed {
            (key, value) = (nil, nil)
        } else {
            key = Linear("self_attn.k_proj", width, keyValueHeadCount * headSize, bias: hasBias, builder)
            value = Linear("self_attn.v_proj", width, keyValueHeadCount * headSize, bias: hasBias, builder)
        }
        output = Linear("self_attn.o_proj", headCount * headSize, width, bias: hasBias, builder)
        bias =
            hasScoreBias
            ? builder.tensor("self_attn.qk_bias", Shape(2, 1, headCount, headSize), .constant(0), decays: false) : nil
    }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let (y, _, _, carryOut) = lending(x, carry: carry, pass)
        return (y, carryOut)
    }

    /// `forward`, with the keys after rotation and the values of all that it saw, `[B, S, Hkv, d]`: the arguments of
    /// the following.
    public func lending(
        _ x: Variable, carry: Carry, _ pass: Pass
    ) -> (y: Variable, keys: Variable, values: Variable, carry: Carry) {
        let tape = pass.tape
        let (key, value) = keysAndValues(x, tape)
        let result = tape.attention(
            query: biased(query(x, tape), tape), key: key, value: value, pastKey: carry["k"], pastValue: carry["v"],
            geometry(pass))
        let carryOut = [
            CarryTensor(name: "k", variable: result.keys, crossesBatches: false),
            CarryTensor(name: "v", variable: result.values, crossesBatches: false),
        ]
        return (output(result.output, tape), result.allKeys, result.allValues, carryOut)
    }

    /// Attention to the keys and values of all positions that another pass of these weights has made; `x` holds the
    /// chunk or, without a window, any selection of its tokens.
    ///
    /// - Parameter updatesKeys: whether keys and values at the positions of `x` are those of `x`; otherwise `x` is
    ///   projected to queries only.
    public func forward(
        _ x: Variable, sharedKeys: Variable, sharedValues: Variable, updatesKeys: Bool = false, _ pass: Pass
    ) -> Variable {
        let (tape, geometry) = (pass.tape, geometry(pass))
        var (keys, values) = (sharedKeys, sharedValues)
        if updatesKeys {
            var (key, value) = keysAndValues(x, tape)
            if let rotary {
                key = tape.rotary(
                    key, pass.batch, pass.time, positionOffset: pass.positionOffset, positions: pass.positions, rotary)
            }
            let length = keys.value.count / (pass.batch * cachedHeadCount * headSize)
            let rows = (0..<pass.rows).map { row in
                let (sequence, time) = (row / pass.time, row % pass.time)
                guard let positions = pass.positions else {
                    return Int32(sequence * length + length - pass.time + time)
                }
                // A repeated position fills up a sequence.
                if time > 0, positions[row] == positions[row - 1] { return -1 }
                return Int32(sequence * length) + positions[row]
            }
            keys = tape.replacingRows(keys, with: key, rows: rows)
            values = tape.replacingRows(values, with: value, rows: rows)
        }
        let mixed = tape.attention(
            query: biased(query(x, tape), tape), sharedKeys: keys, sharedValues: values, geometry)
        return output(mixed, tape)
    }

    private func geometry(_ pass: Pass) -> AttentionGeometry {
        AttentionGeometry(
            batch: pass.batch, time: pass.time, headCount: headCount, keyValueHeadCount: cachedHeadCount,
            headSize: headSize, window: window, positionOffset: pass.positionOffset, positions: pass.positions,
            rotary: rotary)
    }

    /// Heads of the keys and values that queries meet.
    private var cachedHeadCount: Int { bias == nil ? keyValueHeadCount : headCount }

    private func biased(_ query: Variable, _ tape: Tape) -> Variable {
        bias.map { tape.addBias(query, $0, row: 0) } ?? query
    }

    /// Keys before rotation, and values.
    private func keysAndValues(_ x: Variable, _ tape: Tape) -> (Variable, Variable) {
        guard let keyMatrix = key, let valueMatrix = value else {
            fatalError("AttentionMixer: this application has no keys of its own")
        }
        let (key, value) = (keyMatrix(x, tape), valueMatrix(x, tape))
        guard let bias else { return (key, value) }
        let count = headCount / keyValueHeadCount
        return (
            tape.addBias(tape.repeatedHeads(key, headSize: headSize, count: count), bias, row: 1),
            tape.repeatedHeads(value, headSize: headSize, count: count)
        )
    }

    public func flopsPerToken(time: Int) -> Double {
        let visible = Double(min(time, window ?? time))
        let projections = 4 * headSize * (headCount + (key == nil ? 0 : keyValueHeadCount)) * outputWidth
        return Double(projections) + 2 * Double(headCount * headSize) * (visible + 1)
    }

    public func growingCarry(positions: Int) -> Int {
        key == nil ? 0 : 2 * sharedWidth * min(positions, window.map { $0 - 1 } ?? positions)
    }

    public var savedPerToken: Int {
        2 * (headCount + (key == nil ? 0 : cachedHeadCount)) * headSize + headCount
    }

    /// Of the keys, and of the values, that a position adds to the carry; nil in an application that has none of its own.
    package var entryShape: Shape? { key == nil ? nil : Shape(1, 1, cachedHeadCount, headSize) }

    /// Floats per position of the keys, and of the values, that other applications may share.
    var sharedWidth: Int { cachedHeadCount * headSize }
}
