import TestSupport
import Testing

@Suite struct RetNetMixerTests {
    /// D(K(H + Hkv) + V(2H + Hkv)) + V, and the convolutions' taps.
    static let cases = [
        MixerCase("retnet", ["head_count": "2"], width: 12, parameterCount: 12 * (6 * 4 + 12 * 6) + 12),
        MixerCase(
            "retnet",
            [
                "head_count": "4", "kv_head_count": "2", "expand_v": "1", "rotary": "false", "short_conv": "true",
                "conv_size": "3",
            ], width: 20, parameterCount: 20 * (5 * 6 + 5 * 10) + 5 + 3 * (20 + 10 + 10)),
        MixerCase(
            "retnet", ["head_count": "3", "expand_k": "2", "output_gate": "false"], width: 18,
            parameterCount: 18 * (12 * 6 + 12 * 6) + 12),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[1]).checkLongInput() }
}
