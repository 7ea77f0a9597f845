import Autograd
import Kernels
import Tensors

/// Based: linear attention with the second-order Taylor features of a few channels, which approach softmax for small scores.
///
/// `S_t = S_{t−1} + φ(k_t) v_tᵀ`, `z_t = z_{t−1} + φ(k_t)`, `o_t = φ(q_t)ᵀS_t / (φ(q_t)·z_t + ε)`, `φ(q)·φ(k) = 1 + a + a²/2`,
/// `a = q·k/√f`; the denominator is positive, each term being at least ½. `y = out_proj(o)`.
///
/// Keys: `head_count`, `feature_dim` `f` (16), `eps` (1e-12).
/// Parameters: `mixer.proj_q.weight`, `proj_k.weight [H·f, D]`, `proj_v.weight`, `out_proj.weight [D, D]`: `2D(Hf + D)`.
/// Carry: `S [B, H, F, D/H]`, `z [B, H, F]`, `F = 1 + f + f(f+1)/2` (the symmetric half of the products).
/// Cost per token: `4D(Hf + D)` and `H(64(F + V) + 4FV)`.
/// Source: arXiv 2402.18668.
public final class BasedMixer: SequenceMixer {
    public static let name = "based"

    let headCount, valueWidth: Int
    let featureSize: Int
    private let epsilon: Float
    private let query, key, value, output: Linear
    public let outputWidth: Int

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        outputWidth = width
        headCount = try reader.int("head_count", default: nil, in: 1...4096)
        if width % headCount != 0 {
            throw reader.error("head_count", "\(headCount) does not divide the width \(width)")
        }
        valueWidth = width / headCount
        featureSize = try reader.int("feature_dim", default: 16, in: 1...256)
        epsilon = Float(try reader.double("eps", default: 1e-12, in: 0...1))
        query = Linear("mixer.proj_q", width, headCount * featureSize, bias: false, builder)
        key = Linear("mixer.proj_k", width, headCount * featureSize, bias: false, builder)
        value = Linear("mixer.proj_v", width, width, bias: false, builder)
        output = Linear("mixer.out_proj", width, width, bias: false, builder)
    }

    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { ["S", "z"] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (o, state) = tape.matrixMemory(
            query: Columns(query(x, tape)), key: Columns(key(x, tape)), value: Columns(value(x, tape)),
            past: MatrixMemoryState(state: carry["S"], norm: carry["z"]), shape(batch: pass.batch, time: pass.time))
        return (output(o, tape), carryTensors(state))
    }

    /// `F`
    var featureWidth: Int { MatrixMemoryShape.taylorWidth(featureSize) }

    func shape(batch: Int, time: Int) -> MatrixMemoryShape {
        MatrixMemoryShape(
            batch: batch, time: time, headCount: headCount, keyWidth: featureWidth, valueWidth: valueWidth,
            rawKeyWidth: featureSize, normalizer: .sum(epsilon: epsilon))
    }

    func carryTensors(_ state: MatrixMemoryState) -> Carry {
        [CarryTensor(name: "S", variable: state.state!), CarryTensor(name: "z", variable: state.norm!)]
    }

    public func flopsPerToken(time: Int) -> Double {
        let (features, chunk) = (featureWidth, min(time, MatrixMemoryShape.chunk))
        let memory = headCount * (chunk * (features + valueWidth) + 4 * features * valueWidth)
        return Double(4 * outputWidth * (headCount * featureSize + outputWidth) + memory)
    }

    public var savedPerToken: Int {
        2 * headCount * (featureSize + valueWidth) + headCount * featureWidth * valueWidth / MatrixMemoryShape.chunk
    }
}
