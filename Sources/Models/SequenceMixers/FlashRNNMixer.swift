import Autograd
import Kernels
import Tensors

/// Recurrent networks of several heads: each head is a network of `S = H/N` units that sees only its own past, so the recurrent
/// weights shrink by N while non-linear recurrence, and with it state tracking, stays.
///
/// `a = x Wxᵀ + b`, with the recurrent products `R[g, n] h_{t-1}[n]` of gate g and head n:
/// - `elman`: `h = tanh(a + R h)`.
/// - `lstm`: gates i, f, z, o as in `LSTMMixer`; `slstm`: the same gates as in `SLSTMMixer`.
/// - `gru`: input gates r, z, n, recurrent gates g, r, z, biases g, r, z, n: `h = z h + (1 − z) tanh(n + r (R_g h + b_g))`.
///
/// Keys: `function` (`elman` | `lstm` | `gru` | `slstm`), `hidden_size` (H, default the width), `head_count` (N).
/// Parameters: `mixer.wx.weight [Gw·H, D]` (gate, head, unit), `mixer.R [Gr, N, S, S]`, `mixer.b [Gb, N, S]`, with
/// (Gw, Gr, Gb) = (1, 1, 1), (4, 4, 4), (3, 3, 4), (4, 4, 4): Gw·H·D + Gr·H·S + Gb·H.
/// Carry: `s` `[states, B, H]`, the states h; h, c; h; h, c, n, m. 2·Gw·H·D + 2·Gr·H·S FLOPs a token.
/// Source: FlashRNN, arXiv 2412.07752.
public final class FlashRNNMixer: SequenceMixer {
    public static let name = "flashrnn"

    private enum Function: String, CaseIterable { case elman, lstm, gru, slstm }

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["s"]
    private let function: Function
    private let inputWidth, headCount: Int
    private let inputWeight, bias: ParameterUse
    private let recurrentWeight: RecurrentWeight

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let name = try reader.choice("function", of: Function.allCases.map(\.rawValue), default: nil)
        let function = Function(rawValue: name)!
        let hidden = try reader.int("hidden_size", default: builder.inputWidth, in: 1...1_000_000)
        let heads = try reader.int("head_count", default: nil, in: 1...4096)
        if hidden % heads != 0 {
            throw reader.error("head_count", "\(heads) does not divide hidden_size \(hidden); choose a divisor")
        }
        let size = hidden / heads
        (self.function, inputWidth, headCount, outputWidth) = (function, builder.inputWidth, heads, hidden)
        let gates = function == .elman ? 1 : function == .gru ? 3 : 4
        inputWeight = builder.matrix(
            "mixer.wx.weight", gates * hidden, builder.inputWidth,
            .uniform(bound: 1 / Float(builder.inputWidth).squareRoot()))
        recurrentWeight = RecurrentWeight(
            builder.tensor(
                "mixer.R", Shape(gates, heads, size, size), .uniform(bound: 1 / Float(size).squareRoot()), decays: true),
            // The recurrent gates of the GRU come as candidate, r, z.
            .gateMajor(
                gates: gates, heads: heads, outputs: size, inputs: size,
                gateOrder: function == .gru ? [1, 2, 0] : nil))
        bias = builder.tensor(
            "mixer.b", Shape(function == .gru ? 4 : gates, heads, size), .constant(0), decays: false)
    }

    private var gateCount: Int { recurrentWeight.layout.gateCount }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let run = RecurrentRun(batch: pass.batch, time: pass.time)
        let size = outputWidth / headCount
        let dense = BlockLayout.gateMajor(
            gates: gateCount, heads: headCount, outputs: size, inputs: inputWidth, sharesInput: true)
        // The GRU's first bias belongs to the recurrent product of the candidate.
        let pieces = GateBias(
            bias, offset: function == .gru ? outputWidth : 0,
            .gateMajor(gates: gateCount, heads: headCount, outputs: size, inputs: 1))
        let gates = tape.gates(
            [GateTerm(x, [inputWeight], dense)], biases: [pieces],
            GateColumns(gateCount: gateCount, width: outputWidth, headCount: headCount))
        let states = carry.stack("s", count: stateCount)
        switch function {
        case .elman:
            let (y, h) = tape.elman(gates, recurrentWeight, isReLU: false, run, hidden: states.first)
            return (y, Carry(stack: "s", [h]))
        case .lstm:
            let (y, h, c) = tape.lstm(gates, recurrentWeight, run, hidden: states.first, cell: states.last)
            return (y, Carry(stack: "s", [h, c]))
        case .gru:
            let (y, h) = tape.gru(
                gates, recurrentWeight, candidateBias: (bias, 0), run, hidden: states.first)
            return (y, Carry(stack: "s", [h]))
        case .slstm:
            let (y, states) = tape.slstm(gates, recurrentWeight, run, states: states)
            return (y, Carry(stack: "s", states))
        }
    }

    private var stateCount: Int {
        switch function {
        case .elman, .gru: 1
        case .lstm: 2
        case .slstm: 4
        }
    }

    public func flopsPerToken(time: Int) -> Double {
        Double(2 * gateCount * outputWidth * (inputWidth + outputWidth / headCount))
    }

    public var savedPerToken: Int { (gateCount + 3) * outputWidth }
}
