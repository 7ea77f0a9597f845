import Autograd
import Kernels
import Tensors

/// What the linear-attention family has round its core: projections to heads, optional short convolutions in front of it,
/// a norm over each head, an optional output gate and the output projection behind it.
///
/// Keys: `head_count`, `kv_head_count` (= `head_count`), `expand_k`, `expand_v` (widths of all heads together, relative to
/// the model's), `norm_eps` (1e-5), and where the mixer has them `output_gate`, `short_conv`, `conv_size` (4).
/// Names under `mixer.`: `q_proj.weight [H·K, D]`, `k_proj [Hkv·K, D]`, `v_proj [Hkv·V, D]`, `q_conv1d.weight [H·K, 1, W]`, `k_conv1d`,
/// `v_conv1d`, `g_proj.weight [H·V, D]`, `o_proj.weight [D, H·V]`, and the norm's own name with a weight `[V]` for all heads.
struct MemoryHeads {
    /// Defaults of a mixer; nil for a key that it does not have.
    struct Defaults {
        var expandKey = 1.0
        var expandValue = 1.0
        var hasOutputGate: Bool?
        var hasShortConvolution: Bool?
        var normName = "g_norm"
        /// Has the key `output_norm` (rmsnorm | identity).
        var hasNormChoice = false
    }

    let headCount, keyValueHeadCount: Int
    /// `K`, `V`.
    let keyWidth, valueWidth: Int
    private let width: Int
    private let query, key, value, output: Linear
    private let convolutions: [ShortConvolution]
    private let gate: Linear?
    private let norm: GatedNorm?

    init(
        _ reader: ConfigurationReader, _ builder: LayerBuilder, _ defaults: Defaults
    ) throws(ConfigurationError) {
        width = builder.inputWidth
        headCount = try reader.int("head_count", default: nil, in: 1...4096)
        keyValueHeadCount = try reader.int("kv_head_count", default: headCount, in: 1...4096)
        if headCount % keyValueHeadCount != 0 {
            throw reader.error("kv_head_count", "\(keyValueHeadCount) does not divide head_count \(headCount)")
        }
        keyWidth = try Self.headWidth("expand_k", defaults.expandKey, headCount, reader, builder)
        valueWidth = try Self.headWidth("expand_v", defaults.expandValue, headCount, reader, builder)
        let epsilon = try reader.double("norm_eps", default: 1e-5, in: 0...1)
        let isGated = try defaults.hasOutputGate.map { value throws(ConfigurationError) in
            try reader.bool("output_gate", default: value)
        }
        var isNormalized = true
        if defaults.hasNormChoice {
            isNormalized =
                try reader.choice("output_norm", of: ["rmsnorm", "identity"], default: "rmsnorm") == "rmsnorm"
        }
        var taps: Int?
        if let hasConvolution = defaults.hasShortConvolution {
            let isConvolved = try reader.bool("short_conv", default: hasConvolution)
            let size = try reader.int("conv_size", default: 4, in: 1...1024)
            if isConvolved { taps = size }
        }

        query = Linear("mixer.q_proj", width, headCount * keyWidth, bias: false, builder)
        key = Linear("mixer.k_proj", width, keyValueHeadCount * keyWidth, bias: false, builder)
        value = Linear("mixer.v_proj", width, keyValueHeadCount * valueWidth, bias: false, builder)
        let channels = [
            ("q", headCount * keyWidth), ("k", keyValueHeadCount * keyWidth), ("v", keyValueHeadCount * valueWidth),
        ]
        convolutions =
            taps.map { taps in
                channels.map {
                    ShortConvolution(
                        "mixer.\($0.0)_conv1d", carry: "conv_\($0.0)", channels: $0.1, taps: taps, bias: false,
                        silu: true, builder)
                }
            } ?? []
        gate = isGated == true ? Linear("mixer.g_proj", width, headCount * valueWidth, bias: false, builder) : nil
        let shape = GatedNormShape(
            groupCount: headCount, groupWidth: valueWidth, gate: gate == nil ? .none : .silu, sharesWeight: true,
            epsilon: Float(epsilon))
        norm = isNormalized ? GatedNorm("mixer.\(defaults.normName)", shape, builder) : nil
        output = Linear("mixer.o_proj", headCount * valueWidth, width, bias: false, builder)
    }

    private static func headWidth(
        _ key: String, _ fallback: Double, _ headCount: Int, _ reader: ConfigurationReader, _ builder: LayerBuilder
    ) throws(ConfigurationError) -> Int {
        let factor = try reader.double(key, default: fallback, above: 0)
        let all = factor * Double(builder.inputWidth)
        if all.rounded() != all || Int(all) % headCount != 0 {
            throw reader.error(
                key, "\(factor) times the width \(builder.inputWidth) is no multiple of head_count \(headCount)")
        }
        return Int(all) / headCount
    }

    /// Names of the convolutions' carries.
    var carryNames: [String] { convolutions.map(\.carryName) }

    /// `q [B·T, H·K]`, `k [B·T, Hkv·K]`, `v [B·T, Hkv·V]`, and the convolutions' carries.
    func project(_ x: Variable, carry: Carry, _ pass: Pass) -> (q: Variable, k: Variable, v: Variable, carry: Carry) {
        let tape = pass.tape
        var projected = [query(x, tape), key(x, tape), value(x, tape)]
        var carryOut: Carry = []
        for (i, convolution) in convolutions.enumerated() {
            let (y, history) = convolution(projected[i], carry: carry, pass)
            projected[i] = y
            carryOut.append(history)
        }
        return (projected[0], projected[1], projected[2], carryOut)
    }

    /// `o_proj(norm(o) ⊙ silu(g_proj(x)))`, without the gate where there is none.
    func finish(_ o: Variable, _ x: Variable, _ tape: Tape) -> Variable {
        output(norm.map { $0(o, gate: gate.map { $0(x, tape) }, tape) } ?? o, tape)
    }

    func shape(
        _ pass: Pass, keyWidth: Int? = nil, rawKeyWidth: Int? = nil, scale: Float,
        normalizer: MatrixMemoryShape.Normalizer = .none
    ) -> MatrixMemoryShape {
        MatrixMemoryShape(
            batch: pass.batch, time: pass.time, headCount: headCount, keyWidth: keyWidth ?? self.keyWidth,
            valueWidth: valueWidth, keyHeadCount: keyValueHeadCount, valueHeadCount: keyValueHeadCount,
            rawKeyWidth: rawKeyWidth, scale: scale,
            normalizer: normalizer)
    }

    /// Projections, convolutions, and the memory with keys of width `K'`, forward.
    func flopsPerToken(time: Int, keyWidth features: Int? = nil) -> Double {
        let features = features ?? keyWidth
        let heads = headCount * (keyWidth + valueWidth * (gate == nil ? 1 : 2))
        let projections = 2 * width * (heads + keyValueHeadCount * (keyWidth + valueWidth))
        let chunk = min(time, MatrixMemoryShape.chunk)
        let memory = headCount * (chunk * (features + valueWidth) + 4 * features * valueWidth)
        return Double(projections + memory) + convolutions.reduce(0) { $0 + $1.flopsPerToken }
    }

    /// Floats kept per token by all of it.
    func savedPerToken(keyWidth features: Int? = nil) -> Int {
        let features = features ?? keyWidth
        let projected = headCount * keyWidth + keyValueHeadCount * (keyWidth + valueWidth)
        let states = headCount * features * valueWidth / MatrixMemoryShape.chunk
        return projected * (convolutions.isEmpty ? 1 : 2) + headCount * valueWidth * (gate == nil ? 2 : 3) + states
    }
}
