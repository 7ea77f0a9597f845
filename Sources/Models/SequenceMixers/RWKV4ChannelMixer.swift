import Autograd
import Kernels
import Tensors

/// The channel mix of RWKV-4: a gated feed-forward network that also sees the token before.
///
///     x_k = μ_k ⊙ x_t + (1 − μ_k) ⊙ x_{t−1};   x_r alike;   out = σ(W_r x_r) ⊙ W_v relu(W_k x_k)²
///
/// Keys: `hidden_size` F (4D), `n_layer` (12) and `layer_id`, from which the start of the mixes is made.
/// Parameters under `mixer.`: `time_mix_k`, `time_mix_r [1, 1, D]`, `key.weight [F, D]` (normal with the size of an orthogonal
/// matrix times 2), `receptance.weight [D, D]` and `value.weight [D, F]` (both start at zero).
/// Carry: `shift [B, D]`, the last input. Cost per token: 4·D·F + 2·D² FLOPs.
/// Source: arXiv 2305.13048; BlinkDL/RWKV-LM, `RWKV-v4/src/model.py`.
public final class RWKV4ChannelMixer: SequenceMixer {
    public static let name = "rwkv4_channel_mix"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["shift"]
    private let hiddenSize: Int
    private let mixes: [ParameterUse]
    private let key, receptance, value: Linear

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let depth = try RWKV4Depth(reader, builder)
        let width = builder.inputWidth
        hiddenSize = try reader.int("hidden_size", default: 4 * width, in: 1...1_000_000)
        outputWidth = width
        mixes = [
            depth.mix("time_mix_k", exponent: depth.remaining, builder),
            depth.mix("time_mix_r", exponent: depth.remaining, builder),
        ]
        key = Linear(
            "mixer.key", width, hiddenSize, bias: false, builder,
            initializer: .normal(standardDeviation: 2 / Float(max(width, hiddenSize)).squareRoot()))
        receptance = Linear("mixer.receptance", width, width, bias: false, builder, initializer: .constant(0))
        value = Linear("mixer.value", hiddenSize, width, bias: false, builder, initializer: .constant(0))
    }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (mixed, last) = tape.tokenShift(
            x, before: carry["shift"], mixes: mixes, batch: pass.batch, time: pass.time)
        let hidden = tape.activation(.relu, key(mixed[0], tape))
        let gate = receptance(mixed[1], tape)
        let y = value(tape.multiply(hidden, hidden), tape)
        return (tape.glu(gate: gate, up: y), [CarryTensor(name: "shift", variable: last)])
    }

    public func flopsPerToken(time: Int) -> Double {
        Double(4 * outputWidth * hiddenSize + 2 * outputWidth * outputWidth)
    }

    /// The input, its two mixes, the gate's argument, the value; the key before and after relu, and its square.
    public var savedPerToken: Int { 5 * outputWidth + 3 * hiddenSize }
}
