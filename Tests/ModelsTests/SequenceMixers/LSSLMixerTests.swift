import TestSupport
import Testing

@Suite struct LSSLMixerTests {
    /// D of the steps, N·D of C, D of the skip, D² + D of the output; 7·N of the transition, or 7·N·D.
    static let cases = [
        MixerCase("lssl", ["d_state": "6"], width: 10, parameterCount: 30 + 60 + 100 + 42),
        MixerCase("lssl", ["d_state": "8", "learn": "0", "dt_max": "0.5"], width: 18, parameterCount: 54 + 144 + 324),
        MixerCase(
            "lssl", ["d_state": "10", "learn": "2", "dt_min": "0.1", "dt_max": "0.8"], width: 7,
            parameterCount: 21 + 70 + 49 + 490),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
