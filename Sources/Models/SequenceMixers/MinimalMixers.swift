import Autograd
import Kernels
import Tensors

/// What minGRU and minLSTM share: gates that depend on the input alone, so that the state is a weighted mean of the past.
///
/// Keys: `expansion_factor` (1; state width `C = ⌊D·factor⌋`), `log_space` (true: states are made of `g(v) = v + ½` for v ≥ 0,
/// σ(v) below, as in the paper's training in log space; false: of v itself).
/// Parameters: one matrix `[G·C, D]`, drawn from U(1/√D), and `mixer.to_out.weight [D, C]` when C ≠ D.
private struct MinimalCell {
    let width: Int
    let isPositive: Bool
    let gateCount: Int
    let weight: ParameterUse
    let output: Linear?
    let outputWidth: Int

    init(
        _ reader: ConfigurationReader, _ builder: LayerBuilder, weight name: String, gateCount: Int
    ) throws(ConfigurationError) {
        let factor = try reader.double("expansion_factor", default: 1, in: 0.001...1000)
        isPositive = try reader.bool("log_space", default: true)
        outputWidth = builder.inputWidth
        width = Int(Double(outputWidth) * factor)
        if width < 1 { throw reader.error("expansion_factor", "\(factor) leaves no state of width \(outputWidth)") }
        self.gateCount = gateCount
        let bound = Initializer.uniform(bound: 1 / Float(outputWidth).squareRoot())
        weight = builder.matrix("mixer.\(name).weight", gateCount * width, outputWidth, bound)
        output =
            width == outputWidth
            ? nil
            : Linear(
                "mixer.to_out", width, outputWidth, bias: false, builder,
                initializer: .uniform(bound: 1 / Float(width).squareRoot()))
    }

    func gates(_ x: Variable, _ tape: Tape) -> Variable {
        let dense = BlockLayout.gateMajor(gates: gateCount, heads: 1, outputs: width, inputs: outputWidth)
        return tape.gates(
            [GateTerm(x, [weight], dense)], biases: [],
            GateColumns(gateCount: gateCount, width: width, headCount: 1))
    }

    func result(_ cell: (output: Variable, hidden: Variable), _ tape: Tape) -> (Variable, Carry) {
        (output.map { $0(cell.output, tape) } ?? cell.output, [CarryTensor(name: "h", variable: cell.hidden)])
    }

    var flopsPerToken: Double { Double(2 * (gateCount + (output == nil ? 0 : 1)) * width * outputWidth) }
}

/// minGRU: `z = σ(gate)`, `h_t = (1 − z) h_{t-1} + z g(hidden)`, y = h.
///
/// `mixer.to_hidden_and_gate.weight [2·C, D]`: 2·C·D parameters (+ C·D), keys of `MinimalCell`. Carry: `h` `[B, C]`. 4·C·D FLOPs
/// a token (+ 2·C·D). Run in order in linear space: on a core that is faster and, over thousands of tokens, more accurate than
/// a parallel scan of logarithms.
/// Source: Were RNNs all we needed?, arXiv 2410.01201.
public final class MinGRUMixer: SequenceMixer {
    public static let name = "mingru"
    private let cell: MinimalCell

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        cell = try MinimalCell(reader, builder, weight: "to_hidden_and_gate", gateCount: 2)
    }

    public var outputWidth: Int { cell.outputWidth }
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["h"]
    public func flopsPerToken(time: Int) -> Double { cell.flopsPerToken }
    public var savedPerToken: Int { 3 * cell.width }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        cell.result(
            pass.tape.minGRU(
                cell.gates(x, pass.tape), isPositive: cell.isPositive, batch: pass.batch, time: pass.time,
                hidden: carry["h"]), pass.tape)
    }
}

/// minLSTM: `f = σ(f̃)`, `i = σ(ĩ)`, `h_t = (f h_{t-1} + i g(hidden)) / (f + i)`, y = h.
///
/// `mixer.to_hidden_and_f_i_gate.weight [3·C, D]`: 3·C·D parameters (+ C·D), keys of `MinimalCell`. Carry: `h` `[B, C]`.
/// 6·C·D FLOPs a token (+ 2·C·D). The ratio is taken of logarithms, so that two closed gates still have one.
/// Source: Were RNNs all we needed?, arXiv 2410.01201.
public final class MinLSTMMixer: SequenceMixer {
    public static let name = "minlstm"
    private let cell: MinimalCell

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        cell = try MinimalCell(reader, builder, weight: "to_hidden_and_f_i_gate", gateCount: 3)
    }

    public var outputWidth: Int { cell.outputWidth }
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["h"]
    public func flopsPerToken(time: Int) -> Double { cell.flopsPerToken }
    public var savedPerToken: Int { 5 * cell.width }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        cell.result(
            pass.tape.minLSTM(
                cell.gates(x, pass.tape), isPositive: cell.isPositive, batch: pass.batch, time: pass.time,
                hidden: carry["h"]), pass.tape)
    }
}
