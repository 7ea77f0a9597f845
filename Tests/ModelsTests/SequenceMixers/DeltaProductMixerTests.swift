import TestSupport
import Testing

@Suite struct DeltaProductMixerTests {
    /// D·((n+1)HK + (n+2)HvV + (n+1)Hv) + 2Hv + V + W·((n+1)HK + nHvV), at sizes off the vector width.
    static let cases = [
        MixerCase(
            "deltaproduct", ["head_count": "2"], width: 14,
            parameterCount: 14 * (3 * 14 + 4 * 28 + 3 * 2) + 4 + 14 + 4 * (3 * 14 + 2 * 28)),
        MixerCase(
            "deltaproduct",
            [
                "num_householder": "3", "head_count": "1", "head_size": "9", "value_head_count": "2",
                "value_head_size": "5", "use_short_conv": "false", "use_gate": "false", "use_forget_gate": "false",
                "allow_neg_eigval": "false",
            ], width: 10, parameterCount: 10 * (4 * 9 + 4 * 10 + 3 * 2) + 5),
        MixerCase(
            "deltaproduct", ["num_householder": "1", "head_count": "2", "value_head_size": "6"], width: 10,
            parameterCount: 10 * (2 * 10 + 3 * 12 + 2 * 2) + 4 + 6 + 4 * (2 * 10 + 12)),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[0]).checkLongInput()
    }
}
