import Autograd
import Kernels
import Tensors

/// The stack that the classic cells share: `num_layers` layers, each in one or two directions, with
/// dropout on the output of every layer but the last. Semantics and names are torch.nn's:
/// `mixer.weight_ih_l{l}`, `weight_hh_l{l}`, `bias_ih_l{l}`, `bias_hh_l{l}`, suffix `_reverse`; all
/// drawn from U(1/√H).
///
/// Keys: `hidden_size` (default the width), `num_layers` (1), `bias` (true), `dropout` (0),
/// `bidirectional` (false), `output_projection` (false; adds `mixer.o_proj.weight [D, H·directions]`).
final class RecurrentStack {
    struct Direction {
        let inputWeight: ParameterUse
        let recurrentWeight: RecurrentWeight
        let inputBias, recurrentBias: ParameterUse?
        let isReversed: Bool

        /// Pre-activations of all steps, with the recurrent bias of the first `addedBiases` gates.
        func gates(_ x: Variable, addedBiases: Int, _ tape: Tape) -> Variable {
            let units = recurrentWeight.layout.inputCount
            let count = recurrentWeight.layout.gateCount
            let biases = [(inputBias, count), (recurrentBias, addedBiases)].compactMap { bias, gates in
                bias.map { GateBias($0, .gateMajor(gates: gates, heads: 1, outputs: units, inputs: 1)) }
            }
            let dense = BlockLayout.gateMajor(gates: count, heads: 1, outputs: units, inputs: x.value.width)
            return tape.gates(
                [GateTerm(x, [inputWeight], dense)], biases: biases,
                GateColumns(gateCount: count, width: units, headCount: 1))
        }

        func run(_ pass: Pass) -> RecurrentRun {
            RecurrentRun(batch: pass.batch, time: pass.time, isReversed: isReversed)
        }
    }

    let hiddenSize: Int
    let isBidirectional: Bool
    let outputWidth: Int
    private let gateCount: Int
    private let layers: [[Direction]]
    private let inputWidths: [Int]
    private let dropout: Double
    private let dropoutStreams: [Int]
    private let projection: Linear?

    init(
        _ reader: ConfigurationReader, _ builder: LayerBuilder, gateCount: Int, forgetBias: Double = 0
    ) throws(ConfigurationError) {
        let hiddenSize = try reader.int("hidden_size", default: builder.inputWidth, in: 1...1_000_000)
        let layerCount = try reader.int("num_layers", default: 1, in: 1...1000)
        let hasBias = try reader.bool("bias", default: true)
        dropout = try reader.double("dropout", default: 0, in: 0...0.99)
        let isBidirectional = try reader.bool("bidirectional", default: false)
        let isProjected = try reader.bool("output_projection", default: false)
        let bound = Initializer.uniform(bound: 1 / Float(hiddenSize).squareRoot())
        let directionCount = isBidirectional ? 2 : 1
        let rows = gateCount * hiddenSize

        inputWidths = (0..<layerCount).map { $0 == 0 ? builder.inputWidth : hiddenSize * directionCount }
        layers = inputWidths.enumerated().map { l, inputWidth in
            (0..<directionCount).map { direction in
                let suffix = "l\(l)" + (direction == 1 ? "_reverse" : "")
                let inputBias: Initializer =
                    forgetBias == 0
                    ? bound
                    : .shifted(base: bound, rows: hiddenSize..<2 * hiddenSize, value: Float(forgetBias))
                return Direction(
                    inputWeight: builder.matrix("mixer.weight_ih_\(suffix)", rows, inputWidth, bound),
                    recurrentWeight: RecurrentWeight(
                        builder.matrix("mixer.weight_hh_\(suffix)", rows, hiddenSize, bound),
                        .gateMajor(gates: gateCount, heads: 1, outputs: hiddenSize, inputs: hiddenSize)),
                    inputBias: hasBias ? builder.vector("mixer.bias_ih_\(suffix)", rows, inputBias) : nil,
                    recurrentBias: hasBias ? builder.vector("mixer.bias_hh_\(suffix)", rows, bound) : nil,
                    isReversed: direction == 1)
            }
        }
        dropoutStreams = (0..<layerCount - 1).map { _ in builder.dropoutStream() }
        projection =
            isProjected
            ? Linear("mixer.o_proj", hiddenSize * directionCount, builder.inputWidth, bias: false, builder) : nil
        outputWidth = isProjected ? builder.inputWidth : hiddenSize * directionCount
        self.hiddenSize = hiddenSize
        self.isBidirectional = isBidirectional
        self.gateCount = gateCount
    }

    var chunkingObstacle: String? {
        isBidirectional ? "a bidirectional layer needs the whole sequence" : nil
    }
    var lookahead: Lookahead { isBidirectional ? .whole : .none }

    /// `cell` runs one direction of one layer and returns its output and final states by name.
    func forward(
        _ x: Variable, carry: Carry, _ pass: Pass,
        cell: (Variable, Direction, [String: Variable]) -> (Variable, [(String, Variable)])
    ) -> (Variable, Carry) {
        let tape = pass.tape
        var x = x
        var carryOut: Carry = []
        for (l, directions) in layers.enumerated() {
            var outputs: [Variable] = []
            for direction in directions {
                let suffix = layers.count > 1 ? "_l\(l)" : ""
                var stateIn: [String: Variable] = [:]
                if !isBidirectional {
                    for tensor in carry where tensor.name.hasSuffix(suffix) {
                        stateIn[String(tensor.name.dropLast(suffix.count))] = tensor.variable
                    }
                }
                let (y, stateOut) = cell(x, direction, stateIn)
                outputs.append(y)
                if !isBidirectional {
                    carryOut += stateOut.map { CarryTensor(name: $0.0 + suffix, variable: $0.1) }
                }
            }
            x = outputs.count == 1 ? outputs[0] : tape.concatenateColumns(outputs[0], outputs[1])
            if l < layers.count - 1 { x = pass.dropout(x, rate: dropout, stream: dropoutStreams[l]) }
        }
        return (projection.map { $0(x, tape) } ?? x, carryOut)
    }

    var flopsPerToken: Double {
        let directionCount = isBidirectional ? 2 : 1
        let cells = inputWidths.reduce(0.0) { $0 + Double(2 * gateCount * hiddenSize * ($1 + hiddenSize)) }
        let projected = projection == nil ? 0 : 2 * hiddenSize * directionCount * outputWidth
        return cells * Double(directionCount) + Double(projected)
    }

    var savedPerToken: Int { (gateCount + 2) * hiddenSize * layers.count * (isBidirectional ? 2 : 1) }
}

/// Long short-term memory (Hochreiter & Schmidhuber 1997; torch `nn.LSTM`), gates `i, f, g, o`:
/// `c_t = σ(f) c_{t-1} + σ(i) tanh(g)`, `h_t = σ(o) tanh(c_t)`.
///
/// Keys of `RecurrentStack`, and `forget_bias` (0): added to the forget rows of `bias_ih` at
/// initialisation. Carry: `h`, `c` `[B, H]` (`h_l0`, `c_l0`, ... when there are several layers).
public final class LSTMMixer: SequenceMixer {
    public static let name = "lstm"
    private let stack: RecurrentStack

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let forgetBias = try reader.double("forget_bias", default: 0)
        stack = try RecurrentStack(reader, builder, gateCount: 4, forgetBias: forgetBias)
    }

    public var outputWidth: Int { stack.outputWidth }
    public var chunkingObstacle: String? { stack.chunkingObstacle }
    public var lookahead: Lookahead { stack.lookahead }
    public var savedPerToken: Int { stack.savedPerToken }
    public var streamStateNames: [String] { stack.isBidirectional ? [] : ["h", "c"] }
    public func flopsPerToken(time: Int) -> Double { stack.flopsPerToken }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        stack.forward(x, carry: carry, pass) { x, direction, state in
            let result = pass.tape.lstm(
                direction.gates(x, addedBiases: 4, pass.tape), direction.recurrentWeight, direction.run(pass),
                hidden: state["h"], cell: state["c"])
            return (result.output, [("h", result.hidden), ("c", result.cell)])
        }
    }
}

/// Gated recurrent unit (arXiv 1406.1078; torch `nn.GRU`), gates `r, z, n`:
/// `n = tanh(gi_n + r ⊙ gh_n)`, `h_t = (1 − z) n + z h_{t-1}`. Carry: `h [B, H]`.
public final class GRUMixer: SequenceMixer {
    public static let name = "gru"
    private let stack: RecurrentStack

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        stack = try RecurrentStack(reader, builder, gateCount: 3)
    }

    public var outputWidth: Int { stack.outputWidth }
    public var chunkingObstacle: String? { stack.chunkingObstacle }
    public var lookahead: Lookahead { stack.lookahead }
    public var savedPerToken: Int { stack.savedPerToken + stack.hiddenSize }
    public var streamStateNames: [String] { stack.isBidirectional ? [] : ["h"] }
    public func flopsPerToken(time: Int) -> Double { stack.flopsPerToken }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        stack.forward(x, carry: carry, pass) { x, direction, state in
            let result = pass.tape.gru(
                direction.gates(x, addedBiases: 2, pass.tape), direction.recurrentWeight,
                candidateBias: direction.recurrentBias.map { ($0, 2 * self.stack.hiddenSize) }, direction.run(pass),
                hidden: state["h"])
            return (result.output, [("h", result.hidden)])
        }
    }
}

/// Elman network (Elman 1990; torch `nn.RNN`): `h_t = φ(x_t Wihᵀ + bih + h_{t-1} Whhᵀ + bhh)`,
/// `nonlinearity: tanh | relu`. Carry: `h [B, H]`.
public final class RNNMixer: SequenceMixer {
    public static let name = "rnn"
    private let stack: RecurrentStack
    private let isReLU: Bool

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        isReLU = try reader.choice("nonlinearity", of: ["tanh", "relu"], default: "tanh") == "relu"
        stack = try RecurrentStack(reader, builder, gateCount: 1)
    }

    public var outputWidth: Int { stack.outputWidth }
    public var chunkingObstacle: String? { stack.chunkingObstacle }
    public var lookahead: Lookahead { stack.lookahead }
    public var savedPerToken: Int { stack.savedPerToken }
    public var streamStateNames: [String] { stack.isBidirectional ? [] : ["h"] }
    public func flopsPerToken(time: Int) -> Double { stack.flopsPerToken }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        stack.forward(x, carry: carry, pass) { x, direction, state in
            let result = pass.tape.elman(
                direction.gates(x, addedBiases: 1, pass.tape), direction.recurrentWeight, isReLU: self.isReLU,
                direction.run(pass), hidden: state["h"])
            return (result.output, [("h", result.hidden)])
        }
    }
}
