import TestSupport
import Testing

@Suite struct JRTMixerTests {
    /// 3D(Hf + D). A prefix of no token (chunks and tokens one by one are checked), of some, and longer than the sequence.
    static let cases = [
        MixerCase(
            "jrt", ["head_count": "2", "feature_dim": "5", "enc_length": "0"], width: 14,
            parameterCount: 3 * 14 * (10 + 14)),
        MixerCase(
            "jrt", ["head_count": "3", "feature_dim": "4", "enc_length": "5"], width: 18,
            parameterCount: 3 * 18 * (12 + 18)),
        MixerCase("jrt", ["head_count": "1", "enc_length": "1000"], width: 9, parameterCount: 3 * 9 * (16 + 9)),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[1]).checkLongInput() }
}
