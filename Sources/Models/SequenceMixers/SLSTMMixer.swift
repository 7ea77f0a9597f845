import Autograd
import Glibc
import Kernels
import Tensors

/// sLSTM: an LSTM with exponential gates, a normaliser and heads that keep to themselves.
///
/// With `xc = silu(conv(x))`, ĩ and f̃ from xc, z̃ and õ from x (each a linear map inside every head, plus the recurrent
/// product of h_{t-1} inside the head, plus a bias):
///
///     m_t = max(ĩ, logσ(f̃) + m_{t-1}), or ĩ while n is 0;  i' = e^{ĩ − m_t};  f' = e^{logσ(f̃) + m_{t-1} − m_t}
///     c_t = f' c_{t-1} + i' tanh z̃;  n_t = f' n_{t-1} + i';  h_t = σ(õ) c_t / n_t
///     y_t = (h_t − mean) / √(var + ε) over each head's channels, times 1 + w
///
/// With `block: true` it is the paper's whole residual block, `x + layer(LN(x))`, then `x + down(gelu(g) ⊙ u)`,
/// `(g, u) = up(LN(x))`; to be used with `norm: none, residual: false` around it.
///
/// Keys: `head_count` (4), `conv1d_kernel_size` (4; 0 for none), `dropout` (0, in front of the group norm), `bias_init`
/// (`powerlaw_blockdependent` | `small_init` | `standard` | `zeros`; the first as for a lone block),
/// `recurrent_weight_init` (`zeros` | `standard`), `block` (false), `ffn_proj_factor` (1.3, rounded up to a multiple of 64).
/// Parameters, `N` heads of `S = D/N` units, `K` taps: 8·D·S + 4·D + D + D·K + D; the block adds 2·D + 3·D·F.
/// Carry: `s` `[4, B, D]` (h, c, n, m), `conv` `[B, K−1, D]`. 16·D·S + 2·D·K FLOPs a token, and 6·D·F of the block.
/// Source: xLSTM, arXiv 2405.04517, and its `blocks/slstm`.
public final class SLSTMMixer: SequenceMixer {
    public static let name = "slstm"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames: [String]
    private let headCount: Int
    private let convolution: ShortConvolution?
    private let gateWeights: [ParameterUse]
    private let recurrentWeight: RecurrentWeight
    private let bias: ParameterUse
    private let groupNorm: GatedNorm
    private let dropout: Double
    private let dropoutStream: Int
    private let frame: Frame?

    /// What the block has around the layer.
    private struct Frame {
        let layerNorm, feedForwardNorm: GatedNorm
        let up, down: Linear
        let innerWidth: Int
    }

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        let headCount = try reader.int("head_count", default: 4, in: 1...4096)
        if width % headCount != 0 {
            throw reader.error("head_count", "\(headCount) does not divide the width \(width); choose a divisor")
        }
        let taps = try reader.int("conv1d_kernel_size", default: 4, in: 0...256)
        if taps == 1 { throw reader.error("conv1d_kernel_size", "one tap sees no other token; use 0 for none") }
        dropout = try reader.double("dropout", default: 0, in: 0...0.99)
        let biasKind = try reader.choice(
            "bias_init", of: ["powerlaw_blockdependent", "small_init", "standard", "zeros"],
            default: "powerlaw_blockdependent")
        let recurrentKind = try reader.choice(
            "recurrent_weight_init", of: ["zeros", "standard"], default: "zeros")
        let isBlock = try reader.bool("block", default: false)
        let factor = try reader.double("ffn_proj_factor", default: 1.3, in: 0.01...1000)
        let size = width / headCount
        self.headCount = headCount
        outputWidth = width
        streamStateNames = taps > 0 ? ["conv", "s"] : ["s"]

        let prefix = isBlock ? "mixer.xlstm." : "mixer."
        func norm(_ name: String, groups: Int) -> GatedNorm {
            GatedNorm(
                name, GatedNormShape(groupCount: groups, groupWidth: width / groups, isCentred: true, epsilon: 1e-5),
                addsOne: true, builder)
        }
        let layerNorm = isBlock ? norm("mixer.xlstm_norm", groups: 1) : nil
        convolution =
            taps > 0
            ? ShortConvolution(
                prefix + "conv1d.conv", carry: "conv", channels: width, taps: taps, bias: true, silu: true, builder)
            : nil
        let narrow = Initializer.normal(standardDeviation: (2 / (5 * Float(width))).squareRoot())
        gateWeights = ["igate", "fgate", "zgate", "ogate"].map {
            builder.tensor(prefix + "\($0).weight", Shape(headCount, size, size), narrow, decays: true)
        }
        recurrentWeight = RecurrentWeight(
            builder.tensor(
                prefix + "slstm_cell.recurrent_kernel", Shape(headCount, size, 4, size),
                recurrentKind == "zeros" ? .constant(0) : .uniform(bound: 1 / Float(width).squareRoot()), decays: true),
            .headMajor(gates: 4, heads: headCount, outputs: size, inputs: size))
        bias = builder.tensor(
            prefix + "slstm_cell.bias", Shape(headCount, 4, size),
            SLSTMMixer.biasInitializer(biasKind, headCount: headCount, headSize: size), decays: false)
        dropoutStream = builder.dropoutStream()
        groupNorm = norm(prefix + "group_norm", groups: headCount)
        guard let layerNorm else {
            frame = nil
            return
        }
        let inner = Int((factor * Double(width) / 64).rounded(.up)) * 64
        frame = Frame(
            layerNorm: layerNorm, feedForwardNorm: norm("mixer.ffn_norm", groups: 1),
            up: Linear("mixer.ffn.proj_up", width, 2 * inner, bias: false, builder, initializer: narrow),
            down: Linear(
                "mixer.ffn.proj_down", inner, width, bias: false, builder,
                initializer: .normal(standardDeviation: 2 / Float(width).squareRoot())),
            innerWidth: inner)
    }

    /// `[heads, i f z o, units]`: zero but for the forget gate, whose biases spread the heads' memories over time scales.
    private static func biasInitializer(_ kind: String, headCount: Int, headSize: Int) -> Initializer {
        if kind == "zeros" { return .constant(0) }
        if kind == "standard" { return .uniform(bound: 1 / Float(headCount * headSize).squareRoot()) }
        var values = [Float](repeating: 0, count: headCount * 4 * headSize)
        for head in 0..<headCount {
            for unit in 0..<headSize {
                let place = headSize > 1 ? Double(unit) / Double(headSize - 1) : 0
                values[(head * 4 + 1) * headSize + unit] =
                    kind == "small_init" ? Float(3 + 3 * place) : Float(5 - 12 * pow(place, 0.3))
            }
        }
        return .values(values)
    }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        guard let frame else { return layer(x, carry: carry, pass) }
        let tape = pass.tape
        let (mixed, carryOut) = layer(frame.layerNorm(x, tape), carry: carry, pass)
        let y = tape.add(x, mixed)
        let halves = tape.linear(
            frame.feedForwardNorm(y, tape), weight: frame.up.weight, splitting: [frame.innerWidth, frame.innerWidth])
        let hidden = tape.multiply(tape.activation(.gelu, halves[0]), halves[1])
        return (tape.add(y, frame.down(hidden, tape)), carryOut)
    }

    private func layer(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let size = outputWidth / headCount
        var carryOut: Carry = []
        var convolved = x
        if let convolution {
            let (y, past) = convolution(x, carry: carry, pass)
            convolved = y
            carryOut.append(past)
        }
        let heads = BlockLayout.gateMajor(gates: 1, heads: headCount, outputs: size, inputs: size)
        let gates = tape.gates(
            [
                GateTerm(convolved, Array(gateWeights[0..<2]), heads),
                GateTerm(x, Array(gateWeights[2..<4]), heads, firstGate: 2),
            ], biases: [GateBias(bias, .headMajor(gates: 4, heads: headCount, outputs: size, inputs: 1))],
            GateColumns(gateCount: 4, width: outputWidth, headCount: headCount))
        let (h, states) = tape.slstm(
            gates, recurrentWeight, RecurrentRun(batch: pass.batch, time: pass.time),
            states: carry.stack("s", count: 4))
        carryOut += Carry(stack: "s", states)
        return (groupNorm(pass.dropout(h, rate: dropout, stream: dropoutStream), tape), carryOut)
    }

    public func flopsPerToken(time: Int) -> Double {
        let size = outputWidth / headCount
        return Double(16 * outputWidth * size) + (convolution?.flopsPerToken ?? 0)
            + (frame.map { Double(6 * outputWidth * $0.innerWidth) } ?? 0)
    }

    public var savedPerToken: Int { 12 * outputWidth + (frame.map { 3 * outputWidth + 4 * $0.innerWidth } ?? 0) }
}
