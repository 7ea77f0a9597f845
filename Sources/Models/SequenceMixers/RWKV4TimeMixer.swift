import Autograd
import Glibc
import Kernels
import Tensors

/// What both mixers of RWKV-4 start from: their depth.
struct RWKV4Depth {
    /// `ρ`: 0 in the first layer, 1 in the last. `κ`: 1 in the first layer, towards 0.
    let ratio, remaining: Double

    /// Keys `n_layer` (12), the layers of the model, each a time mix and a channel mix, and `layer_id`, counted from 0 (half
    /// the position of the mixer in the model, as the two alternate).
    init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let count = try reader.int("n_layer", default: 12, in: 1...10_000)
        let layer = try reader.int("layer_id", default: min(builder.layerIndex / 2, count - 1), in: 0...count - 1)
        ratio = count == 1 ? 0 : Double(layer) / Double(count - 1)
        remaining = 1 - Double(layer) / Double(count)
    }

    /// A mix `μ = (j/D)^exponent + shift` of channel j.
    func mix(_ name: String, exponent: Double, shift: Double = 0, _ builder: LayerBuilder) -> ParameterUse {
        let width = builder.inputWidth
        let values = (0..<width).map { Float(pow(Double($0) / Double(width), exponent) + shift) }
        return builder.tensor("mixer.\(name)", Shape(1, 1, width), .values(values), decays: false)
    }
}

/// The time mix of RWKV-4: an attention whose weights fall exponentially with distance, as a recurrence.
///
///     x_k = μ_k ⊙ x_t + (1 − μ_k) ⊙ x_{t−1};   k = W_k x_k;   v, r alike;   w = −e^{time_decay},   u = time_first
///     y = Σ_{s<t} e^{(t−1−s) w + k_s} v_s + e^{u+k_t} v_t, divided by the sum of these weights;   out = W_o (σ(r) ⊙ y)
///
/// per channel; the sums run with exponents relative to their maximum `o`. Follow it by `rwkv4_channel_mix`, both in blocks
/// with `norm: layernorm`, for the block of the paper.
/// Keys: `n_layer` (12) and `layer_id`, from which the start of decays and mixes is made.
/// Parameters under `mixer.`: `time_decay`, `time_first [D]`, `time_mix_k`, `time_mix_v`, `time_mix_r [1, 1, D]`, `key`,
/// `value`, `receptance`, `output` `.weight [D, D]`; `value` starts normal with the size of an orthogonal matrix, the
/// other three at zero. No weight decay on vectors and mixes.
/// Carry: `shift [B, D]`, the last input, and `p`, `q`, `o [B, D]`; empty: 0, 0, 0, −1e38.
/// Cost per token: 8·D² + 25·D FLOPs and 4·D exponentials; linear in T.
/// Source: arXiv 2305.13048; BlinkDL/RWKV-LM, `RWKV-v4/src/model.py`.
public final class RWKV4TimeMixer: SequenceMixer {
    public static let name = "rwkv4_time_mix"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["shift", "p", "q", "o"]
    private let decay, first: ParameterUse
    private let mixes: [ParameterUse]
    private let key, value, receptance, output: Linear

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let depth = try RWKV4Depth(reader, builder)
        let width = builder.inputWidth
        outputWidth = width
        let decays = (0..<width).map { j in
            Float(-5 + 8 * pow(Double(j) / Double(max(width - 1, 1)), 0.7 + 1.3 * depth.ratio))
        }
        decay = builder.vector("mixer.time_decay", width, .values(decays))
        first = builder.vector(
            "mixer.time_first", width,
            .values((0..<width).map { Float(log(0.3)) + 0.5 * Float(($0 + 1) % 3 - 1) }))
        mixes = [
            depth.mix("time_mix_k", exponent: depth.remaining, builder),
            depth.mix("time_mix_v", exponent: depth.remaining, shift: 0.3 * depth.ratio, builder),
            depth.mix("time_mix_r", exponent: depth.remaining / 2, builder),
        ]
        func linear(_ name: String, _ initializer: Initializer) -> Linear {
            Linear("mixer.\(name)", width, width, bias: false, builder, initializer: initializer)
        }
        key = linear("key", .constant(0))
        value = linear("value", .normal(standardDeviation: 1 / Float(width).squareRoot()))
        receptance = linear("receptance", .constant(0))
        output = linear("output", .constant(0))
    }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (mixed, last) = tape.tokenShift(
            x, before: carry["shift"], mixes: mixes, batch: pass.batch, time: pass.time)
        var state: Tape.WeightedKeyValueState?
        if let p = carry["p"], let q = carry["q"], let o = carry["o"] { state = .init(p: p, q: q, o: o) }
        let (y, final) = tape.weightedKeyValue(
            k: key(mixed[0], tape), v: value(mixed[1], tape), decay: decay, first: first, batch: pass.batch,
            time: pass.time, state: state)
        let gated = tape.glu(gate: receptance(mixed[2], tape), up: y)
        let carryOut = [("shift", last), ("p", final.p), ("q", final.q), ("o", final.o)]
        return (output(gated, tape), carryOut.map { CarryTensor(name: $0.0, variable: $0.1) })
    }

    public func flopsPerToken(time: Int) -> Double { Double(outputWidth * (8 * outputWidth + 25)) }

    /// The input, its three mixes, k, v, r, y, its product with the gate; a state every 16 steps.
    public var savedPerToken: Int { 9 * outputWidth + 3 * outputWidth / 16 }
}
