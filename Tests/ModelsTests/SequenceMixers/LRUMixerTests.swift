import TestSupport
import Testing

@Suite struct LRUMixerTests {
    /// 3N + 4·N·D + D + 2D² + 2D parameters.
    static let cases = [
        MixerCase("lru", width: 10, parameterCount: 30 + 400 + 10 + 220),
        MixerCase(
            "lru", ["d_hidden": "35", "r_min": "0.9", "r_max": "0.999", "max_phase": "0.3"], width: 6,
            parameterCount: 105 + 840 + 6 + 84),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[1]).checkLongInput() }
}
