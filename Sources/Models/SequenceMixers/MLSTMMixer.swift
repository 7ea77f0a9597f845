import Autograd
import Kernels
import Tensors

/// mLSTM: a matrix memory with exponential (or sigmoid) input gates, forget gates and a normaliser.
///
/// With `i, f = cap·tanh(W x + b, cap)`, `lf = log σ(f)`, per head, exponential input gate:
/// `m_t = max(lf_t + m_{t−1}, i_t)`, `C_t = e^{lf + m_{t−1} − m_t} C_{t−1} + e^{i − m_t} k vᵀ`, `n_t` likewise with `k`,
/// `h_t = K^{−½} qᵀC_t / (max(|K^{−½} q·n_t|, e^{−m_t}) + ε)`. Sigmoid input gate: `σ(i)` for `e^i`, no `m`, floor 1; with
/// `normalize: false` no `n` and no division.
/// `y = out_proj(σ(ogate_preact x) ⊙ LayerNorm_head(h) ⊙ multihead_norm.weight)`.
///
/// Keys: `head_count`, `qk_dim_factor` (0.5), `v_dim_factor` (1), `bias` (false), `gate_soft_cap` (15), `input_gate` (exp |
/// sigmoid), `normalize` (true; sigmoid only), `eps` (1e-6), `norm_eps` (1e-6).
/// Parameters, `Q = qk_dim_factor·D`, `U = v_dim_factor·D`: `mixer.q.weight`, `k.weight [Q, D]`, `v.weight`, `ogate_preact.weight [U, D]`,
/// `igate_preact.weight`, `fgate_preact.weight [H, D]` (0 at the start) with `.bias` (N(0, 0.1) and 3 … 6), `multihead_norm.weight [U]`,
/// `out_proj.weight [D, U]`: `D(2Q + 3U + 2H) + 2H + U`.
/// Carry: `C [B, H, K, V]`, `n [B, H, K]`, `m [B, H]`.
/// Cost per token: `2D(2Q + 3U + 2H)` and `H(64(K + V) + 4KV)`.
/// Chunks of 64 tokens keep a state each. The two-level tiling of arXiv 2503.14376 keeps fewer by longer chunks; at the
/// widths of heads in use a state costs less memory than the tokens of its chunk, and longer chunks cost work.
/// Source: arXiv 2405.04517, 2503.13427; NX-AI/mlstm_kernels. Gradients are exact, normaliser and maximum included.
public final class MLSTMMixer: SequenceMixer {
    public static let name = "mlstm"

    private let headCount, keyWidth, valueWidth: Int
    private let softCap: Float
    private let isExponential: Bool
    private let normalizer: MatrixMemoryShape.Normalizer
    private let query, key, value, outputGate, inputGate, forgetGate, output: Linear
    private let norm: GatedNorm
    public let outputWidth: Int

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        outputWidth = width
        headCount = try reader.int("head_count", default: nil, in: 1...4096)
        keyWidth = try Self.headWidth("qk_dim_factor", 0.5, headCount, reader, width)
        valueWidth = try Self.headWidth("v_dim_factor", 1, headCount, reader, width)
        let hasBias = try reader.bool("bias", default: false)
        softCap = Float(try reader.double("gate_soft_cap", default: 15, above: 0))
        isExponential = try reader.choice("input_gate", of: ["exp", "sigmoid"], default: "exp") == "exp"
        let isNormalized = try reader.bool("normalize", default: true)
        let epsilon = Float(try reader.double("eps", default: 1e-6, in: 0...1))
        let normEpsilon = Float(try reader.double("norm_eps", default: 1e-6, in: 0...1))
        if isExponential, !isNormalized {
            throw reader.error("normalize", "an exponential input gate needs the normaliser; set input_gate: sigmoid")
        }
        normalizer = isNormalized ? .magnitude(floor: 1, epsilon: epsilon) : .none

        let (keys, values) = (headCount * keyWidth, headCount * valueWidth)
        query = Linear("mixer.q", width, keys, bias: hasBias, builder)
        key = Linear("mixer.k", width, keys, bias: hasBias, builder)
        value = Linear("mixer.v", width, values, bias: hasBias, builder)
        outputGate = Linear("mixer.ogate_preact", width, values, bias: hasBias, builder)
        inputGate = Linear(
            "mixer.igate_preact", width, headCount, bias: .normal(standardDeviation: 0.1), builder,
            initializer: .constant(0))
        let last = Float(max(headCount - 1, 1))
        forgetGate = Linear(
            "mixer.fgate_preact", width, headCount,
            bias: .values((0..<headCount).map { 3 + 3 * Float($0) / last }), builder, initializer: .constant(0))
        norm = GatedNorm(
            "mixer.multihead_norm",
            GatedNormShape(
                groupCount: headCount, groupWidth: valueWidth, isCentred: true, gate: .sigmoid, epsilon: normEpsilon),
            builder)
        output = Linear("mixer.out_proj", values, width, bias: hasBias, builder)
    }

    private static func headWidth(
        _ key: String, _ fallback: Double, _ headCount: Int, _ reader: ConfigurationReader, _ width: Int
    ) throws(ConfigurationError) -> Int {
        let factor = try reader.double(key, default: fallback, above: 0)
        let all = factor * Double(width)
        if all.rounded() != all || Int(all) % headCount != 0 {
            throw reader.error(key, "\(factor) times the width \(width) is no multiple of head_count \(headCount)")
        }
        return Int(all) / headCount
    }

    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { ["C"] + (isNormalized ? ["n"] : []) + (isExponential ? ["m"] : []) }
    private var isNormalized: Bool { normalizer != .none }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let inputs = tape.softCap(inputGate(x, tape), at: softCap)
        let forgets = tape.logSigmoid(tape.softCap(forgetGate(x, tape), at: softCap))
        let (h, state) = tape.matrixMemory(
            query: Columns(query(x, tape)), key: Columns(key(x, tape)), value: Columns(value(x, tape)),
            logDecay: forgets, logInput: isExponential ? inputs : tape.logSigmoid(inputs),
            past: MatrixMemoryState(state: carry["C"], norm: carry["n"], maximum: carry["m"]),
            MatrixMemoryShape(
                batch: pass.batch, time: pass.time, headCount: headCount, keyWidth: keyWidth, valueWidth: valueWidth,
                scale: Float(1 / Double(keyWidth).squareRoot()), normalizer: normalizer, isExponential: isExponential))
        let named = [("C", state.state), ("n", state.norm), ("m", state.maximum)]
        let carryOut = named.compactMap { name, variable in variable.map { CarryTensor(name: name, variable: $0) } }
        return (output(norm(h, gate: outputGate(x, tape), tape), tape), carryOut)
    }

    public func flopsPerToken(time: Int) -> Double {
        let (keys, values) = (headCount * keyWidth, headCount * valueWidth)
        let chunk = min(time, MatrixMemoryShape.chunk)
        let memory = headCount * (chunk * (keyWidth + valueWidth) + 4 * keyWidth * valueWidth)
        return Double(2 * outputWidth * (2 * keys + 3 * values + 2 * headCount) + memory)
    }

    public var savedPerToken: Int {
        headCount * (2 * keyWidth + 4 * valueWidth + 6 + keyWidth * (valueWidth + 1) / MatrixMemoryShape.chunk)
    }
}
