import TestSupport
import Testing

@Suite struct DeltaNetMixerTests {
    /// D·(2HK + 2HvV + Hv) + V + W·(2HK + HvV), and D·HvV with the gate, at sizes off the vector width.
    static let cases = [
        MixerCase(
            "deltanet", ["head_count": "2"], width: 14,
            parameterCount: 14 * (2 * 14 + 2 * 14 + 2) + 7 + 4 * (2 * 14 + 14)),
        MixerCase(
            "deltanet",
            [
                "head_count": "2", "head_size": "17", "value_head_size": "20", "use_gate": "true",
                "allow_neg_eigval": "true", "qk_activation": "identity", "conv_size": "3",
            ], width: 10, parameterCount: 10 * (2 * 34 + 3 * 40 + 2) + 20 + 3 * (2 * 34 + 40)),
        MixerCase(
            "deltanet",
            ["head_count": "1", "head_size": "12", "qk_activation": "silu", "use_short_conv": "false"], width: 10,
            parameterCount: 10 * (2 * 12 + 2 * 12 + 1) + 12),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[1]).checkLongInput()
    }
}
