import TestSupport
import Testing

@Suite struct S4MixerTests {
    /// D + 6·S·n + 2·D·n + D of the state spaces, n = d_state / 2, and 2D² + 2D of the GLU.
    static let cases = [
        MixerCase("s4", ["d_state": "6"], width: 10, parameterCount: 20 + 18 + 60 + 2 * 100 + 20),
        MixerCase(
            "s4", ["d_state": "8", "n_ssm": "3", "dt_transform": "softplus", "dt_min": "0.05", "dt_max": "0.5"],
            width: 18, parameterCount: 36 + 72 + 144 + 2 * 324 + 36),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
