import TestSupport
import Testing

@Suite struct MambaMixerTests {
    /// 2C·D + C·(K + 1) + (r + 2N)·C + C·(r + 1) + C·N + C + C·D parameters, C = expand·D.
    static let cases = [
        MixerCase(
            "mamba", ["d_state": "5"], width: 10,
            parameterCount: 40 * 10 + 20 * 5 + 11 * 20 + 20 * 2 + 20 * 5 + 20 + 20 * 10),
        MixerCase(
            "mamba", ["d_state": "2", "d_conv": "3", "expand": "3", "dt_rank": "4", "conv_bias": "false"], width: 9,
            parameterCount: 54 * 9 + 27 * 3 + 8 * 27 + 27 * 5 + 27 * 2 + 27 + 27 * 9),
        // More channels than one task of the scan takes.
        MixerCase(
            "mamba", ["d_state": "1", "expand": "9", "dt_rank": "1"], width: 30,
            parameterCount: 540 * 30 + 270 * 5 + 3 * 270 + 270 * 2 + 270 + 270 + 270 * 30),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
