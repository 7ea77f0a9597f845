import TestSupport
import Testing

@Suite struct LightNetMixerTests {
    /// 2D(HK + D + r) + D.
    static let cases = [
        MixerCase(
            "lightnet", ["head_count": "2", "expand_ratio": "9", "gate_low_rank": "3"], width: 10,
            parameterCount: 20 * (18 + 10 + 3) + 10),
        MixerCase(
            "lightnet", ["head_count": "3", "expand_ratio": "17", "gate_low_rank": "20"], width: 21,
            parameterCount: 42 * (51 + 21 + 20) + 21),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
