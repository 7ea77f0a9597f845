import Autograd
import Kernels
import Tensors

/// Linear attention: a feature map in place of the exponential, so that the past fits one matrix.
///
/// `S_t = S_{t−1} + φ(k_t) v_tᵀ`, `z_t = z_{t−1} + φ(k_t)`, `o_t = s φ(q_t)ᵀS_t`, divided by `s φ(q_t)·z_t + 1e-10` with
/// `feature_map_norm`; `s = K'^{−½}` for features of width `K'` (1 for `taylor`); `y = o_proj(RMSNorm_head(o))`.
///
/// Keys and names: those of `MemoryHeads` (the norm is `norm`; `output_norm`: rmsnorm | identity), and of `FeatureMap` under
/// `mixer.feature_map_q`, `mixer.feature_map_k`; `feature_map` (elementwise_product), `tie_feature_map` (false),
/// `feature_map_norm` (false).
/// Parameters: `D(K(H + Hkv) + V(H + Hkv)) + V`, and the maps' own.
/// Carry: `S [B, H, K', V]`, `z [B, H, K']` with `feature_map_norm`.
/// Cost per token: projections, and `H(64(K' + V) + 4K'V)` for the memory. Without a decay `S` grows with the sequence.
/// Source: arXiv 2006.16236.
public final class LinearAttentionMixer: SequenceMixer {
    public static let name = "linear_attention"

    private let heads: MemoryHeads
    private let queryMap, keyMap: FeatureMap
    private let isNormalized: Bool
    public let outputWidth: Int

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        outputWidth = builder.inputWidth
        heads = try MemoryHeads(
            reader, builder, MemoryHeads.Defaults(normName: "norm", hasNormChoice: true))
        let kind = try reader.choice("feature_map", default: FeatureMap.Kind.elementwiseProduct)
        let isTied = try reader.bool("tie_feature_map", default: false)
        isNormalized = try reader.bool("feature_map_norm", default: false)
        queryMap = FeatureMap(kind, "mixer.feature_map_q", headWidth: heads.keyWidth, builder)
        keyMap = isTied ? queryMap : FeatureMap(kind, "mixer.feature_map_k", headWidth: heads.keyWidth, builder)
    }

    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { isNormalized ? ["S", "z"] : ["S"] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (q, k, v, _) = heads.project(x, carry: carry, pass)
        let scale = queryMap.isScaled ? 1 : Float(1 / Double(queryMap.featureWidth).squareRoot())
        let (o, state) = tape.matrixMemory(
            query: Columns(queryMap(q, tape)), key: Columns(keyMap(k, tape)), value: Columns(v),
            past: MatrixMemoryState(state: carry["S"], norm: carry["z"]),
            heads.shape(
                pass, keyWidth: queryMap.featureWidth, rawKeyWidth: queryMap.rawWidth, scale: scale,
                normalizer: isNormalized ? .sum(epsilon: 1e-10) : .none))
        let named = [("S", state.state), ("z", state.norm)]
        let carryOut = named.compactMap { name, variable in variable.map { CarryTensor(name: name, variable: $0) } }
        return (heads.finish(o, x, tape), carryOut)
    }

    public func flopsPerToken(time: Int) -> Double {
        let maps = Double(heads.headCount + heads.keyValueHeadCount) * queryMap.flopsPerHead
        return heads.flopsPerToken(time: time, keyWidth: queryMap.featureWidth) + maps
    }

    public var savedPerToken: Int {
        heads.savedPerToken(keyWidth: queryMap.featureWidth)
            + (heads.headCount + heads.keyValueHeadCount) * queryMap.featureWidth
    }
}
