import Autograd
import Kernels
import Tensors

/// DeltaNet: a matrix memory that overwrites. Before a value is written, what its key reads is subtracted.
///
/// `S_t = S_{t−1} + k (β (v − S_{t−1}ᵀk))ᵀ`, `o_t = K^(−½) S_tᵀ q_t`; unit `q`, `k` per head. Formulas, names and carry are
/// those of `DeltaMemory` with one step and no decay.
///
/// Keys: `head_count` H; `head_size` K (width / head_count); `value_head_count` Hv (H); `value_head_size` V (K);
/// `use_gate` (false), `use_short_conv` (true), `conv_size` W (4), `allow_neg_eigval` (false: β in (0, 1), true: in
/// (0, 2)), `qk_activation` silu | relu | identity.
/// Parameters: `D·(2HK + 2HvV + Hv) + V + W·(2HK + HvV)`, and `D·HvV` with the gate.
/// Cost per token: 2 FLOPs a weight, and `Hv (4LK + 3LV + 6KV)`, `L = 64`, for the rule; state `Hv·K·V` floats.
/// Source: arXiv 2102.11174, 2406.06484; flash-linear-attention's layer of that name.
public final class DeltaNetMixer: SequenceMixer {
    public static let name = "deltanet"
    private let memory: DeltaMemory

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        var design = try DeltaMemory.Design(
            reader, width: builder.inputWidth, valueExpansion: 1, gates: false, negativeEigenvalues: false)
        let activation = try reader.choice("qk_activation", of: ["silu", "relu", "identity"], default: "silu")
        design.keyActivation = Activation(rawValue: activation)
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
