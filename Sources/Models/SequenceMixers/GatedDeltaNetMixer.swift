import Autograd
import Kernels
import Tensors

/// Gated DeltaNet: a matrix memory that decays, then is corrected towards `v` along `k`.
///
/// `S_t = e^{g_t} S_{t−1}`, then `S_t += k (β (v − S_tᵀk))ᵀ`; `o_t = K^(−½) S_tᵀ q_t`; unit `q`, `k` per head. Value head `h`
/// uses key head `⌊h·H/Hv⌋`. Formulas, names and carry are those of `DeltaMemory` with one step.
///
/// Keys: `head_count` H; `head_size` K (width / head_count); `value_head_count` Hv (H); `value_head_size` V (2K);
/// `use_gate` (true), `use_short_conv` (true), `conv_size` W (4), `use_forget_gate` (true), `allow_neg_eigval` (false: β
/// in (0, 1), true: in (0, 2)).
/// Parameters: `D·(2HK + 3HvV + 2Hv) + 2Hv + V + W·(2HK + HvV)` with all of them.
/// Cost per token: 2 FLOPs a weight, and `Hv (4LK + 3LV + 6KV)`, `L = 64`, for the rule; state `Hv·K·V` floats.
/// Source: arXiv 2412.06464, equation 10; flash-linear-attention's layer of that name.
public final class GatedDeltaNetMixer: SequenceMixer {
    public static let name = "gated_deltanet"
    private let memory: DeltaMemory

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        var design = try DeltaMemory.Design(
            reader, width: builder.inputWidth, valueExpansion: 2, gates: true, negativeEigenvalues: false)
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
