import Autograd
import Kernels
import Tensors

/// Recurrent highway network: each step takes the state through `depth` micro-layers, the first of which sees the input.
/// From `s = s_{t-1}`, for each micro-layer l:
///
///     a = s R_lᵀ + b_l (+ x_t Wᵀ for l = 0);  h = tanh a_h;  t = σ(a_t);  c = 1 − t, or σ(a_c) when not coupled;  s ← h t + s c
///
/// and y = s. Keys: `hidden_size` (H, default the width), `depth` (4), `coupled` (true), `init_bias` (−2: bias of t at the start).
/// Parameters, with k gates (2 when coupled, else 3): `mixer.weight_i [k·H, D]`, `mixer.weight_s [depth, k·H, H]`,
/// `mixer.bias [depth, k·H]`: k·H·(D + depth·(H + 1)). Weights from U(0.04).
/// Carry: `s` `[B, H]`. 2·k·H·D + 2·depth·k·H² FLOPs a token.
/// Source: arXiv 1607.03474.
public final class RecurrentHighwayMixer: SequenceMixer {
    public static let name = "rhn"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["s"]
    private let hiddenSize, inputWidth, depth, gateCount: Int
    private let inputWeight, bias: ParameterUse
    private let layers: [RecurrentWeight]

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let hidden = try reader.int("hidden_size", default: builder.inputWidth, in: 1...1_000_000)
        let depth = try reader.int("depth", default: 4, in: 1...1000)
        let gates = try reader.bool("coupled", default: true) ? 2 : 3
        let transformBias = try reader.double("init_bias", default: -2)
        (hiddenSize, inputWidth, self.depth, gateCount) = (hidden, builder.inputWidth, depth, gates)
        outputWidth = hidden
        let narrow = Initializer.uniform(bound: 0.04)
        inputWeight = builder.matrix("mixer.weight_i", gates * hidden, builder.inputWidth, narrow)
        let recurrent = builder.tensor("mixer.weight_s", Shape(depth, gates * hidden, hidden), narrow, decays: true)
        layers = (0..<depth).map {
            RecurrentWeight(
                recurrent, offset: $0 * gates * hidden * hidden,
                .gateMajor(gates: gates, heads: 1, outputs: hidden, inputs: hidden))
        }
        var biases = [Float](repeating: 0, count: depth * gates * hidden)
        for layer in 0..<depth {
            for unit in 0..<hidden { biases[(layer * gates + 1) * hidden + unit] = Float(transformBias) }
        }
        bias = builder.tensor("mixer.bias", Shape(depth, gates * hidden), .values(biases), decays: false)
    }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let dense = BlockLayout.gateMajor(gates: gateCount, heads: 1, outputs: hiddenSize, inputs: inputWidth)
        let vector = BlockLayout.gateMajor(gates: gateCount, heads: 1, outputs: hiddenSize, inputs: 1)
        let gates = pass.tape.gates(
            [GateTerm(x, [inputWeight], dense)], biases: [GateBias(bias, vector)],
            GateColumns(gateCount: gateCount, width: hiddenSize, headCount: 1))
        let (y, s) = pass.tape.highway(
            gates, layers, bias: bias, isCoupled: gateCount == 2, RecurrentRun(batch: pass.batch, time: pass.time),
            hidden: carry["s"])
        return (y, [CarryTensor(name: "s", variable: s)])
    }

    public func flopsPerToken(time: Int) -> Double {
        Double(2 * gateCount * hiddenSize * (inputWidth + depth * hiddenSize))
    }
    public var savedPerToken: Int { depth * (gateCount + 1) * hiddenSize }
}
