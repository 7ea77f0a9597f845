import TestSupport
import Testing

@Suite struct S4DMixerTests {
    /// D·(1 + 4n + 1) of the state spaces, n = d_state / 2, and 2D² + 2D of the GLU.
    static let cases = [
        MixerCase("s4d", ["d_state": "6"], width: 10, parameterCount: 10 * (2 + 12) + 2 * 100 + 20),
        MixerCase(
            "s4d", ["d_state": "4", "init": "legs", "disc": "bilinear"], width: 17,
            parameterCount: 17 * (2 + 8) + 2 * 289 + 34),
        MixerCase(
            "s4d", ["d_state": "2", "init": "real", "dt_min": "0.1", "dt_max": "1"], width: 16,
            parameterCount: 16 * (2 + 4) + 2 * 256 + 32),
        MixerCase("s4d", ["d_state": "8", "init": "inv"], width: 3, parameterCount: 3 * (2 + 16) + 18 + 6),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[1]).checkLongInput() }
}
