import TestSupport
import Testing

@Suite struct Mamba2MixerTests {
    /// With inner width I, H heads, C = I + 2GN channels: D(I + C + H) + (W + 1)C + 3H + I + DI.
    static let cases = [
        MixerCase(
            "mamba2", ["state_size": "9", "head_size": "5"], width: 10,
            parameterCount: 10 * (20 + 38 + 4) + 5 * 38 + 12 + 20 + 200),
        // Groups; heads and states off the tile sizes; the norm first.
        MixerCase(
            "mamba2",
            ["state_size": "18", "head_size": "7", "expand": "3", "group_count": "3", "norm_before_gate": "true"],
            width: 14, parameterCount: 14 * (42 + 150 + 6) + 5 * 150 + 18 + 42 + 14 * 42),
        // A group for each head, large steps and rates, no norm, biases, a clamp that is felt.
        MixerCase(
            "mamba2",
            [
                "state_size": "16", "head_size": "16", "group_count": "2", "expand": "2", "norm": "false",
                "bias": "true", "conv_bias": "false", "conv_size": "2", "dt_min": "0.2", "dt_max": "2",
                "dt_limit_min": "0.1", "dt_limit_max": "1.5",
            ], width: 16,
            parameterCount: 17 * (32 + 96 + 2) + 2 * 96 + 6 + 16 * 32 + 16, hasKinks: true),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[1]).checkLongInput() }
}
