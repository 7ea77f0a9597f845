import Autograd
import Kernels
import Tensors

/// Gated DeltaProduct: `n` delta steps a token, whose product of reflections can rotate and permute the state.
///
/// `S_t = e^{g_t} S_{t−1}`, then `n` times `S_t += k_j (β_j (v_j − S_tᵀk_j))ᵀ`; `o_t = K^(−½) S_tᵀ q_t`; unit `q`, `k` per
/// head. With β = 2 a step is a reflection; two make a rotation, which tracking the state of a group needs. Formulas, names
/// and carry are those of `DeltaMemory`.
///
/// Keys: `num_householder` n (2); `head_count` H; `head_size` K (width / head_count); `value_head_count` Hv (H);
/// `value_head_size` V (2K); `use_gate` (true), `use_short_conv` (true), `conv_size` W (4), `use_forget_gate` (true),
/// `allow_neg_eigval` (true: β in (0, 2), false: in (0, 1)).
/// Parameters: `D·((n+1)HK + (n+2)HvV + (n+1)Hv) + 2Hv + V + W·((n+1)HK + nHvV)` with all of them.
/// Cost per token: 2 FLOPs a weight, and `Hv (2L(n+1)K + L(n+2)V + (4n+2)KV)`, `L = 64`, for the rule; state `Hv·K·V` floats.
/// Source: arXiv 2502.10297, 2411.12537 (negative eigenvalues); flash-linear-attention's layer of that name.
public final class DeltaProductMixer: SequenceMixer {
    public static let name = "deltaproduct"
    private let memory: DeltaMemory

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        var design = try DeltaMemory.Design(
            reader, width: builder.inputWidth, valueExpansion: 2, gates: true, negativeEigenvalues: true)
        design.stepCount = try reader.int("num_householder", default: 2, in: 1...DeltaRuleShape.maximumSteps)
        design.hasDecay = try reader.bool("use_forget_gate", default: true)
        memory = DeltaMemory(design, builder)
    }

    public var outputWidth: Int { memory.outputWidth }
    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { memory.streamStateNames }
    public var savedPerToken: Int { memory.savedPerToken }
    public func flopsPerToken(time: Int) -> Double { memory.flopsPerToken }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        memory.forward(x, carry: carry, pass)
    }
}
