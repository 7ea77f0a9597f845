import Autograd
import Kernels
import Tensors

/// Leaky network with a trainable time constant τ per unit. With ι = 1 / max(τ, 1) and
/// `p = x Wᵀ + b + h_{t-1} W'ᵀ + b'`, W' = Whh without its diagonal:
///
///     outside:  h_t = φ((1 − ι) h_{t-1} + ι p)          inside:  h_t = (1 − ι) h_{t-1} + ι φ(p)
///
/// Keys: `hidden_size` (H, default the width), `variant` (`outside` | `inside`), `activation` (`leaky_relu`, slope 0.01 | `relu` |
/// `tanh` | `sigmoid`), `train_tau` (true).
/// Parameters: `mixer.input_layers.0.weight [H, D]`, `.bias`, `mixer.w_hh.0.weight [H, H]`, `.bias`, `mixer.taus.0 [H]` (1 + U[0, 1)):
/// H·(D + H + 3). The diagonal of Whh has no effect and no gradient.
/// Carry: `h` `[B, H]`. 2·H·(D + H) FLOPs a token.
/// Source: Emergent mechanisms for long timescales (ICLR 2024).
public final class LeakyRNNMixer: SequenceMixer {
    public static let name = "leaky_rnn"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["h"]
    private let hiddenSize, inputWidth: Int
    private let isInside, trainsTimeConstants: Bool
    private let nonlinearity: LeakyKernel.Nonlinearity
    private let inputWeight, inputBias, recurrentBias, timeConstants: ParameterUse
    private let recurrentWeight: RecurrentWeight

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let hidden = try reader.int("hidden_size", default: builder.inputWidth, in: 1...1_000_000)
        isInside = try reader.choice("variant", of: ["outside", "inside"], default: "outside") == "inside"
        let kinds = ["leaky_relu", "relu", "tanh", "sigmoid"]
        let kind = try reader.choice("activation", of: kinds, default: "leaky_relu")
        nonlinearity = LeakyKernel.Nonlinearity(rawValue: Int32(kinds.firstIndex(of: kind)!))!
        trainsTimeConstants = try reader.bool("train_tau", default: true)
        (hiddenSize, inputWidth, outputWidth) = (hidden, builder.inputWidth, hidden)
        let fromInput = Initializer.uniform(bound: 1 / Float(builder.inputWidth).squareRoot())
        let fromState = Initializer.uniform(bound: 1 / Float(hidden).squareRoot())
        inputWeight = builder.matrix("mixer.input_layers.0.weight", hidden, builder.inputWidth, fromInput)
        inputBias = builder.vector("mixer.input_layers.0.bias", hidden, fromInput)
        recurrentWeight = RecurrentWeight(
            builder.matrix("mixer.w_hh.0.weight", hidden, hidden, fromState),
            .gateMajor(gates: 1, heads: 1, outputs: hidden, inputs: hidden), ignoresDiagonal: true)
        recurrentBias = builder.vector("mixer.w_hh.0.bias", hidden, fromState)
        timeConstants = builder.vector(
            "mixer.taus.0", hidden, .shifted(base: .uniform(bound: 0.5), rows: 0..<hidden, value: 1.5))
    }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let vector = BlockLayout.gateMajor(gates: 1, heads: 1, outputs: hiddenSize, inputs: 1)
        let dense = BlockLayout.gateMajor(gates: 1, heads: 1, outputs: hiddenSize, inputs: inputWidth)
        let gates = pass.tape.gates(
            [GateTerm(x, [inputWeight], dense)],
            biases: [GateBias(inputBias, vector), GateBias(recurrentBias, vector)],
            GateColumns(gateCount: 1, width: hiddenSize, headCount: 1))
        let (y, h) = pass.tape.leaky(
            gates, recurrentWeight, timeConstants: timeConstants, trainsTimeConstants: trainsTimeConstants,
            nonlinearity: nonlinearity, isInside: isInside, RecurrentRun(batch: pass.batch, time: pass.time),
            hidden: carry["h"])
        return (y, [CarryTensor(name: "h", variable: h)])
    }

    public func flopsPerToken(time: Int) -> Double { Double(2 * hiddenSize * (inputWidth + hiddenSize)) }
    public var savedPerToken: Int { 2 * hiddenSize }
}
