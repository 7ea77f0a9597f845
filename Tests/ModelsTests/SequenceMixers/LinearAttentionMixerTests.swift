import TestSupport
import Testing

@Suite struct LinearAttentionMixerTests {
    /// (H + Hkv)·D·(K + V) + V, and the maps' own.
    static let cases = [
        MixerCase(
            "linear_attention", ["head_count": "2"], width: 10,
            parameterCount: 4 * 10 * 10 + 5 + 4 * (5 * 5 + 5)),
        MixerCase(
            "linear_attention",
            ["head_count": "4", "kv_head_count": "2", "feature_map": "elu", "feature_map_norm": "true"], width: 12,
            parameterCount: 6 * 12 * 6 + 3),
        MixerCase(
            "linear_attention",
            [
                "head_count": "2", "feature_map": "hedgehog", "tie_feature_map": "true", "output_norm": "identity",
                "expand_k": "2", "feature_map_norm": "true",
            ], width: 10, parameterCount: 10 * (2 * 20 + 2 * 10) + 10 * 10 + 10),
        MixerCase(
            "linear_attention", ["head_count": "3", "feature_map": "taylor", "feature_map_norm": "true"], width: 18,
            parameterCount: 4 * 18 * 18 + 6),
        MixerCase(
            "linear_attention", ["head_count": "2", "feature_map": "t2r"], width: 14,
            parameterCount: 4 * 14 * 14 + 7 + 2 * 49, hasKinks: true),
        MixerCase(
            "linear_attention", ["head_count": "2", "feature_map": "relu"], width: 14,
            parameterCount: 4 * 14 * 14 + 7, hasKinks: true),
        MixerCase(
            "linear_attention", ["head_count": "1", "feature_map": "identity", "expand_v": "2"], width: 17,
            parameterCount: 17 * (2 * 17 + 2 * 34) + 34),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[1]).checkLongInput() }
}
