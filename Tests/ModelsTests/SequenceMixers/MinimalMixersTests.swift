import TestSupport
import Testing

@Suite struct MinimalMixersTests {
    static let cases = [
        // G·C·D, and C·D for the way out. In log space, g has a kink at zero.
        MixerCase("mingru", width: 18, parameterCount: 2 * 18 * 18, isBitwise: true, hasKinks: true),
        MixerCase(
            "mingru", ["expansion_factor": "1.5", "log_space": "false"], width: 14, parameterCount: 3 * 21 * 14,
            isBitwise: true),
        MixerCase("minlstm", width: 17, parameterCount: 3 * 17 * 17, isBitwise: true, hasKinks: true),
        MixerCase(
            "minlstm", ["expansion_factor": "2", "log_space": "false"], width: 10, parameterCount: 4 * 20 * 10,
            isBitwise: true),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test(arguments: cases) func longInput(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkLongInput()
    }
}
