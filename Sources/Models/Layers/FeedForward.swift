import Autograd
import Kernels
import Tensors

/// The position-wise half of a block.
///
/// - `swiglu`: `(silu(x Wgᵀ) ⊙ x Wuᵀ) Wdᵀ` (arXiv 2002.05202), names `mlp.gate_proj`, `mlp.up_proj`, `mlp.down_proj`.
/// - `gelu`, `gelu_tanh`, `relu`: `f(x Wuᵀ + b) Wdᵀ + b`, names `mlp.up_proj`, `mlp.down_proj`; erf and tanh form of
///   gelu.
///
/// Parameters: `swiglu` 3·D·F (+ 2F + D with bias), the others 2·D·F (+ F + D with bias).
public final class FeedForward {
    enum Kind: String, CaseIterable { case swiglu, gelu, geluTanh = "gelu_tanh", relu }

    let kind: Kind
    let hiddenSize: Int
    let width: Int
    private let gate: Linear?
    private let up: Linear
    private let down: Linear

    init(_ reader: ConfigurationReader, _ builder: LayerBuilder, width: Int) throws(ConfigurationError) {
        kind = Kind(rawValue: try reader.choice("type", of: Kind.allCases.map(\.rawValue), default: "swiglu"))!
        hiddenSize = try reader.int("hidden_size", default: nil, in: 1...1_000_000)
        let hasBias = try reader.bool("bias", default: kind != .swiglu)
        self.width = width
        gate = kind == .swiglu ? Linear("mlp.gate_proj", width, hiddenSize, bias: hasBias, builder) : nil
        up = Linear("mlp.up_proj", width, hiddenSize, bias: hasBias, builder)
        down = Linear("mlp.down_proj", hiddenSize, width, bias: hasBias, builder)
    }

    func callAsFunction(_ x: Variable, _ tape: Tape) -> Variable {
        switch kind {
        case .swiglu: return down(tape.swiGLU(gate: gate!(x, tape), up: up(x, tape)), tape)
        case .gelu: return down(tape.gelu(up(x, tape), tanhForm: false), tape)
        case .geluTanh: return down(tape.gelu(up(x, tape), tanhForm: true), tape)
        case .relu: return down(tape.activation(.relu, up(x, tape)), tape)
        }
    }

    /// Multiply-adds counted as two, forward, per token.
    var flopsPerToken: Double { Double((kind == .swiglu ? 6 : 4) * width * hiddenSize) }

    /// Floats kept per token for the backward pass.
    var savedPerToken: Int { (kind == .swiglu ? 3 : 2) * hiddenSize }
}

/// `y = x Wᵀ + b`, weight `[out, in]`; in a relaxed recursion with a low-rank correction of each application's own.
public struct Linear {
    let weight: ParameterUse
    let bias: ParameterUse?
    private let update: LowRankUpdate?

    init(
        _ name: String, _ input: Int, _ output: Int, bias hasBias: Bool, _ builder: LayerBuilder,
        initializer: Initializer? = nil
    ) {
        weight = builder.matrix("\(name).weight", output, input, initializer)
        bias = hasBias ? builder.vector("\(name).bias", output, .constant(0)) : nil
        update = builder.lowRankUpdate(name, input, output)
    }

    /// With a bias that starts from `initialBias`.
    init(
        _ name: String, _ input: Int, _ output: Int, bias initialBias: Initializer, _ builder: LayerBuilder,
        initializer: Initializer? = nil
    ) {
        weight = builder.matrix("\(name).weight", output, input, initializer)
        bias = builder.vector("\(name).bias", output, initialBias)
        update = builder.lowRankUpdate(name, input, output)
    }

    /// Whether it is nothing but `x Wᵀ + b`.
    var isPlain: Bool { update == nil }

    func callAsFunction(_ x: Variable, _ tape: Tape) -> Variable {
        guard let update else { return tape.linear(x, weight: weight, bias: bias) }
        return tape.linear(x, weight: weight, bias: bias, down: update.down, up: update.up, scale: update.scale)
    }
}
