import TestSupport
import Testing

@Suite struct GatedDeltaNetMixerTests {
    /// D·(2HK + 3HvV + 2Hv) + 2Hv + V + W·(2HK + HvV), at sizes off the vector width.
    static let cases = [
        MixerCase(
            "gated_deltanet", ["head_count": "2"], width: 14,
            parameterCount: 14 * (2 * 14 + 3 * 28 + 4) + 4 + 14 + 4 * (2 * 14 + 28)),
        // Values share keys; no convolution, gate or decay.
        MixerCase(
            "gated_deltanet",
            [
                "head_count": "1", "head_size": "9", "value_head_count": "3", "value_head_size": "5",
                "use_short_conv": "false", "use_gate": "false", "use_forget_gate": "false", "allow_neg_eigval": "true",
            ], width: 10, parameterCount: 10 * (2 * 9 + 2 * 15 + 3) + 5),
        MixerCase(
            "gated_deltanet",
            ["head_count": "2", "head_size": "17", "value_head_count": "4", "value_head_size": "6", "conv_size": "2"],
            width: 12, parameterCount: 12 * (2 * 34 + 3 * 24 + 8) + 8 + 6 + 2 * (2 * 34 + 24)),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[0]).checkLongInput()
    }
}
