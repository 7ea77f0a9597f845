import TestSupport
import Testing

@Suite struct ParaRNNMixersTests {
    static let cases = [
        // 3·D·S/N + 6·S, and 2·S for the peepholes.
        MixerCase("pararnn_gru", width: 18, parameterCount: 3 * 18 * 9 + 6 * 18, isBitwise: true),
        MixerCase(
            "pararnn_gru", ["head_count": "1", "state_dim": "21"], width: 10, parameterCount: 3 * 10 * 21 + 6 * 21,
            isBitwise: true),
        MixerCase("pararnn_lstm", width: 18, parameterCount: 3 * 18 * 9 + 8 * 18, isBitwise: true),
        MixerCase(
            "pararnn_lstm", ["head_count": "3", "state_dim": "21"], width: 12,
            parameterCount: 3 * 12 * 7 + 8 * 21, isBitwise: true),
        // Solved to rounding, in segments that start where a chunk does.
        MixerCase(
            "pararnn_gru", ["mode": "newton", "max_iterations": "30", "tolerance": "2e-7"], width: 18,
            parameterCount: 3 * 18 * 9 + 6 * 18),
        MixerCase(
            "pararnn_lstm", ["mode": "newton", "max_iterations": "30", "tolerance": "2e-7"], width: 18,
            parameterCount: 3 * 18 * 9 + 8 * 18),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test(arguments: cases) func longInput(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkLongInput()
    }
}
