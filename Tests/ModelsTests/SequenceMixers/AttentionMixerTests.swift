import TestSupport
import Testing

@Suite struct AttentionMixerTests {
    /// Every path of the mixer, at sizes off the vector width.
    static let cases = [
        // D·(2H + 2Hkv)·d, and (H + 2·Hkv)·d + D biases.
        MixerCase("attention", ["head_count": "4", "rotary": "true"], width: 24, parameterCount: 4 * 24 * 24),
        MixerCase(
            "attention",
            ["head_count": "6", "kv_head_count": "2", "head_size": "10", "bias": "true", "rotary": "true"],
            width: 20, parameterCount: 20 * (12 + 4) * 10 + (6 + 4) * 10 + 20),
        MixerCase(
            "attention", ["head_count": "2", "window": "9", "rotary": "true"], width: 16, parameterCount: 4 * 16 * 16),
        MixerCase("attention", ["head_count": "2", "window": "1"], width: 8, parameterCount: 4 * 8 * 8),
        MixerCase(
            "attention", ["head_count": "3", "kv_head_count": "1", "rotary": "false"], width: 21,
            parameterCount: 21 * (6 + 2) * 7),
        // And 2·H·d biases of queries and keys.
        MixerCase(
            "attention",
            [
                "head_count": "4", "kv_head_count": "2", "rotary": "true", "rotary_pairs": "interleaved",
                "qk_bias": "true",
            ],
            width: 24, parameterCount: 24 * (8 + 4) * 6 + 2 * 24),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[1]).checkLongInput(time: 2048)
    }
}
