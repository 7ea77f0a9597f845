import TestSupport
import Testing

@Suite struct LMUMixerTests {
    /// (H + 1)·(D + H + m) parameters.
    static let cases = [
        MixerCase("lmu", ["memory_size": "5", "theta": "12"], width: 10, parameterCount: 11 * 25),
        MixerCase(
            "lmu", ["hidden_size": "21", "memory_size": "18", "theta": "30"], width: 7, parameterCount: 22 * 46),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
