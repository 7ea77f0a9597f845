import TestSupport
import Testing

@Suite struct HydraMixerTests {
    /// D(2I + C + 2H) + (W + 1)C + 3H + HI + I with I = 2D, C = I + 4GN.
    static let cases = [
        MixerCase(
            "hydra", ["state_size": "9", "head_size": "5"], width: 10,
            parameterCount: 10 * (40 + 56 + 8) + 8 * 56 + 12 + 80 + 20),
        MixerCase(
            "hydra", ["state_size": "4", "head_size": "6", "group_count": "2", "conv_size": "3"], width: 12,
            parameterCount: 12 * (48 + 56 + 8) + 4 * 56 + 12 + 96 + 24,
            // A_log starts at 0, so that its steps are too small for the rounding of the loss.
            differenceTolerance: 1e-2),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
