import TestSupport
import Testing

@Suite struct GLAMixerTests {
    /// D(K(H + Hkv) + V(2H + Hkv)) + V; a vector gate adds r(D + Hkv·K) + Hkv·K, a scalar one H(D + 1).
    static let cases = [
        MixerCase(
            "gla", ["head_count": "2", "gate_low_rank": "3"], width: 20,
            parameterCount: 20 * (20 + 60) + 10 + 3 * 30 + 10),
        MixerCase(
            "gla",
            [
                "head_count": "4", "kv_head_count": "2", "expand_k": "1", "gate_logit_normalizer": "0.5",
                "short_conv": "true",
            ], width: 20, parameterCount: 20 * (30 + 50) + 5 + 16 * 30 + 10 + 4 * (20 + 10 + 10)),
        MixerCase(
            "gla",
            ["head_count": "3", "gate": "scalar", "output_gate": "false", "gate_logit_normalizer": "2"], width: 18,
            parameterCount: 18 * (18 + 36) + 6 + 3 * 19),
        MixerCase(
            "gla", ["head_count": "1", "expand_k": "2", "clamp_min": "-0.05"], width: 17,
            parameterCount: 17 * (68 + 51) + 17 + 16 * 51 + 34, hasKinks: true),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test(arguments: [1, 2]) func longInput(_ index: Int) throws {
        try SequenceMixerLaws(Self.cases[index]).checkLongInput()
    }
}
