import Autograd
import Kernels
import Tensors

/// Gated associative memory: a short causal convolution beside a look-up in a bank of learned slots.
///
/// `local = conv(x)`, `global = softmax(x Mᵀ) M`, `(a, b) = W_g x + b_g`, `y = σ(a) ⊙ local + σ(b) ⊙ global`. The bank does not
/// depend on the sequence: only the convolution sees earlier tokens.
///
/// Keys: `num_memory_slots` M (512), `conv_kernel_size` W (3).
/// Names: `mixer.causal_conv.weight [D, 1, W]`, `.bias [D]`, `mixer.memory_bank [M, D]`, `mixer.gate.weight [2D, D]`, `.bias
/// [2D]`; `D·(W + M + 2D + 3)` parameters.
/// Carry: `conv [B, W−1, D]`.
/// Cost per token: `4MD + 4D² + 2WD` FLOPs; state `(W − 1)·D` floats.
/// Source: arXiv 2509.00605; the authors' code, github.com/rishiraj/gam.
public final class GAMMixer: SequenceMixer {
    public static let name = "gam"

    public let outputWidth: Int
    private let slotCount: Int
    private let convolution: ShortConvolution
    private let bank: ParameterUse
    private let gate: Linear

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        slotCount = try reader.int("num_memory_slots", default: 512, in: 1...1_000_000)
        let taps = try reader.int("conv_kernel_size", default: 3, in: 2...64)
        outputWidth = width
        convolution = ShortConvolution(
            "mixer.causal_conv", carry: "conv", channels: width, taps: taps, bias: true, silu: false, builder)
        bank = builder.matrix(
            "mixer.memory_bank", slotCount, width, .uniform(bound: (6 / Float(slotCount + width)).squareRoot()))
        gate = Linear("mixer.gate", width, 2 * width, bias: true, builder)
    }

    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { [convolution.carryName] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (local, past) = convolution(x, carry: carry, pass)
        let global = tape.lookUp(x, bank: bank)
        let gates = tape.linear(
            x, weight: gate.weight, bias: gate.bias, splitting: [outputWidth, outputWidth])
        return (tape.gatedSum(local, gate: gates[0], global, gate: gates[1]), [past])
    }

    public func flopsPerToken(time: Int) -> Double {
        Double(4 * slotCount * outputWidth + 4 * outputWidth * outputWidth) + convolution.flopsPerToken
    }

    public var savedPerToken: Int { 4 * outputWidth + slotCount }
}
