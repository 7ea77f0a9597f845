import TestSupport
import Testing

@Suite struct BasedMixerTests {
    /// 2D(Hf + D).
    static let cases = [
        MixerCase("based", ["head_count": "2", "feature_dim": "5"], width: 14, parameterCount: 2 * 14 * (10 + 14)),
        MixerCase("based", ["head_count": "1"], width: 9, parameterCount: 2 * 9 * (16 + 9)),
        MixerCase("based", ["head_count": "3", "feature_dim": "1"], width: 18, parameterCount: 2 * 18 * (3 + 18)),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
