import Autograd
import Kernels
import Tensors

/// What ParaRNN's cells share: inputs by heads, a recurrence in each channel alone, and how it is solved.
///
/// Keys: `state_dim` (S, default the width), `head_count` (2), `mode` (`sequential` | `newton`), and for the latter
/// `max_iterations` (3), `tolerance` (0) and `fallback_tolerance` (1e-4): steps are run in order after all when a larger residual
/// is left. Parameters: `mixer.B [N, D/N, 3, S/N]` (inputs by heads), `mixer.A [3, S]`, `mixer.b [3, S]`.
private struct DiagonalCell {
    let stateSize, headCount, inputWidth: Int
    let a, b, input: ParameterUse
    let newton: NewtonSolver?

    /// - Parameter fanOut: of the input's initialisation, for a state of S channels in N heads.
    init(
        _ reader: ConfigurationReader, _ builder: LayerBuilder, fanOut: (_ state: Int, _ heads: Int) -> Int
    ) throws(ConfigurationError) {
        let width = builder.inputWidth
        let stateSize = try reader.int("state_dim", default: width, in: 1...1_000_000)
        let headCount = try reader.int("head_count", default: 2, in: 1...4096)
        for (value, name) in [(width, "width"), (stateSize, "state_dim")] where value % headCount != 0 {
            throw reader.error("head_count", "\(headCount) does not divide the \(name) \(value)")
        }
        let mode = try reader.choice("mode", of: ["sequential", "newton"], default: "sequential")
        if mode == "newton" {
            newton = NewtonSolver(
                iterationLimit: try reader.int("max_iterations", default: 3, in: 1...1_000_000),
                tolerance: Float(try reader.double("tolerance", default: 0, in: 0...1)),
                fallbackTolerance: Float(try reader.double("fallback_tolerance", default: 1e-4, in: 0...1)))
        } else {
            newton = nil
        }
        (self.stateSize, self.headCount, inputWidth) = (stateSize, headCount, width)
        a = builder.tensor(
            "mixer.A", Shape(3, stateSize), .normal(standardDeviation: 2 / Float(5 * stateSize).squareRoot()),
            decays: false)
        let fans = Float(width / headCount + fanOut(stateSize, headCount))
        input = builder.tensor(
            "mixer.B", Shape(headCount, width / headCount, 3, stateSize / headCount),
            .uniform(bound: (6 / fans).squareRoot()), decays: true)
        // The first gate opens over a range of time scales.
        let spread = (0..<stateSize).map { -Float($0) / Float(max(1, stateSize - 1)) }
        b = builder.tensor(
            "mixer.b", Shape(3, stateSize), .values(spread + [Float](repeating: 0, count: 2 * stateSize)),
            decays: false)
    }

    func gates(_ x: Variable, _ tape: Tape) -> Variable {
        let heads = BlockLayout.headMajor(
            gates: 3, heads: headCount, outputs: stateSize / headCount, inputs: inputWidth / headCount)
        let bias = GateBias(b, .gateMajor(gates: 3, heads: 1, outputs: stateSize, inputs: 1))
        return tape.gates(
            [GateTerm(x, [input], heads)], biases: [bias], GateColumns(gateCount: 3, width: stateSize, headCount: 1))
    }

    /// Of the products alone; the cells add about 40 operations a channel.
    var flopsPerToken: Double { Double(6 * inputWidth * stateSize / headCount) }
}

/// ParaRNN's diagonal GRU, u = head-wise B x + b:
///
///     z = σ(A_z h + u_z);  r = σ(A_r h + u_r);  n = tanh(A_n h r + u_n);  h ← z n + (1 − z) h;  y = h
///
/// Keys and parameters of `DiagonalCell`: 3·D·S/N + 6·S parameters. Carry: `h` `[B, S]`. 6·D·S/N + 40·S FLOPs a token.
/// Source: arXiv 2510.21450.
public final class ParaRNNGRUMixer: SequenceMixer {
    public static let name = "pararnn_gru"
    private let cell: DiagonalCell

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        cell = try DiagonalCell(reader, builder) { state, _ in state }
    }

    public var outputWidth: Int { cell.stateSize }
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["h"]
    public func flopsPerToken(time: Int) -> Double { cell.flopsPerToken }
    public var savedPerToken: Int { 4 * cell.stateSize }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let (y, h) = pass.tape.diagonalGRU(
            cell.gates(x, pass.tape), a: cell.a, newton: cell.newton, batch: pass.batch, time: pass.time,
            hidden: carry["h"])
        return (y, [CarryTensor(name: "h", variable: h)])
    }
}

/// ParaRNN's diagonal LSTM with coupled gates and peepholes, u = head-wise B x + b:
///
///     f = σ(A_f h + C_f c + u_f);  g = tanh(A_c h + u_c);  c ← f c + (1 − f) g
///     o = σ(A_o h + C_o c + u_o) with the new c;  h ← o tanh c;  y = h
///
/// Gate order f, o, c. Keys and parameters of `DiagonalCell`, and `mixer.C [2, S]` (f, o): 3·D·S/N + 8·S parameters.
/// Carry: `s` `[B, 2, S]` (c, h). 6·D·S/N + 40·S FLOPs a token.
/// Source: arXiv 2510.21450.
public final class ParaRNNLSTMMixer: SequenceMixer {
    public static let name = "pararnn_lstm"
    private let cell: DiagonalCell
    private let peepholes: ParameterUse

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        cell = try DiagonalCell(reader, builder) { state, heads in state / heads }
        peepholes = builder.tensor(
            "mixer.C", Shape(2, cell.stateSize),
            .normal(standardDeviation: 2 / Float(5 * cell.stateSize).squareRoot()), decays: false)
    }

    public var outputWidth: Int { cell.stateSize }
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["s"]
    public func flopsPerToken(time: Int) -> Double { cell.flopsPerToken }
    public var savedPerToken: Int { 5 * cell.stateSize }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let (y, state) = pass.tape.diagonalLSTM(
            cell.gates(x, pass.tape), a: cell.a, peepholes: peepholes, newton: cell.newton, batch: pass.batch,
            time: pass.time, state: carry["s"])
        return (y, [CarryTensor(name: "s", variable: state)])
    }
}
