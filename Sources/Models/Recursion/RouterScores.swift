import Autograd
import Kernels
import Tensors

/// Logits of a router for every token: `W x`, or `W₂ gelu(W₁ x)`. Names: `<name>.router.weight [n, D]`;
/// `<name>.router.0.weight [H, D]`, `<name>.router.2.weight [n, H]`.
struct RouterNetwork {
    private let weights: [ParameterUse]

    init(
        _ name: String, outputs: Int, _ network: RouterSettings.Network, rateFactor: Double = 1,
        _ builder: LayerBuilder
    ) {
        func matrix(_ part: String, _ rows: Int, _ columns: Int) -> ParameterUse {
            builder.tensor(
                "\(name).router\(part).weight", Shape(rows, columns),
                .normal(standardDeviation: Float(builder.defaults.initializerRange)), decays: true,
                updateRule: .optimizer(rateFactor: rateFactor))
        }
        let width = builder.inputWidth
        func perceptron(hidden: Int) -> [ParameterUse] {
            [matrix(".0", hidden, width), matrix(".2", outputs, hidden)]
        }
        switch network {
        case .linear: weights = [matrix("", outputs, width)]
        case .mlp: weights = perceptron(hidden: 2 * width)
        case .wideMLP: weights = perceptron(hidden: 4 * width)
        }
    }

    func callAsFunction(_ x: Variable, _ tape: Tape) -> Variable {
        let y = tape.linear(x, weight: weights[0], bias: nil)
        guard weights.count > 1 else { return y }
        return tape.linear(tape.gelu(y, tanhForm: false), weight: weights[1], bias: nil)
    }

    /// Multiply-adds counted as two, forward, per token.
    var flopsPerToken: Double { weights.reduce(0) { $0 + Double(2 * $1.shape.count) } }
    /// Floats kept per token.
    var savedPerToken: Int { weights.reduce(0) { $0 + 2 * $1.shape[0] } }
}

/// Where a router's logits come from: a network, or for comparison draws that are functions of seed, step, sample and
/// position.
struct RouterScores {
    private let network: RouterNetwork?
    private let temperature: Float
    private let outputs: Int
    private let stream: Int

    init(_ settings: RouterSettings, outputs: Int, _ builder: LayerBuilder) {
        network =
            settings.isRandom ? nil : RouterNetwork("mor_router", outputs: outputs, settings.network, builder)
        temperature = settings.temperature
        self.outputs = outputs
        stream = builder.dropoutStream()
    }

    /// `[N, outputs]` for states `x [N, D]`.
    ///
    /// - Parameter rows: places of the states in the whole activation.
    func callAsFunction(_ x: Variable, rows: [Int32], _ pass: Pass) -> Variable {
        guard let network else { return drawn(rows, pass) }
        return network(temperature == 1 ? x : pass.tape.scale(x, by: 1 / temperature), pass.tape)
    }

    private func drawn(_ rows: [Int32], _ pass: Pass) -> Variable {
        let context = pass.tape.context
        let all = context.tensor(Shape(pass.rows, outputs))
        for (b, sample) in pass.samples.enumerated() {
            let stream = PhiloxStream(
                seed: pass.seed, a: sample, b: UInt32(truncatingIfNeeded: stream),
                c: UInt32(truncatingIfNeeded: pass.step))
            Philox.fillUniform(
                all.pointer + b * pass.time * outputs, stream: stream, first: pass.positionOffset * outputs,
                count: pass.time * outputs, threads: context.threads)
        }
        return pass.tape.gathered(Variable(all), rows: rows)
    }

    var flopsPerToken: Double { network?.flopsPerToken ?? 0 }
    var savedPerToken: Int { (network?.savedPerToken ?? 0) + outputs }
}

extension RouterSettings {
    /// What the block's output will be multiplied by, `[N, outputs]`, from logits.
    func gates(_ z: Variable, _ tape: Tape) -> Variable {
        let gates =
            switch gate {
            case .sigmoid: tape.activation(.sigmoid, z)
            case .tanh: tape.activation(.tanh, z)
            case .softmax: tape.softmax(z)
            case .none: z
            }
        return alpha == 1 ? gates : tape.scale(gates, by: alpha)
    }
}
