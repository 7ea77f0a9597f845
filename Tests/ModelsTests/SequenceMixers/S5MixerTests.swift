import TestSupport
import Testing

@Suite struct S5MixerTests {
    /// 3P + 4·P·D + D, P = ssm_size / 2, and D² + D for each gate matrix.
    static let cases = [
        MixerCase(
            "s5", ["ssm_size": "12", "blocks": "3", "dt_min": "0.1", "dt_max": "1"], width: 10,
            parameterCount: 18 + 240 + 10 + 110),
        MixerCase(
            "s5",
            ["ssm_size": "40", "blocks": "1", "discretization": "bilinear", "activation": "full_glu"], width: 7,
            parameterCount: 60 + 560 + 7 + 2 * 56),
        MixerCase(
            "s5", ["ssm_size": "8", "blocks": "2", "clip_eigs": "true", "activation": "half_glu2"], width: 9,
            parameterCount: 12 + 144 + 9 + 90),
        MixerCase(
            "s5", ["ssm_size": "4", "blocks": "1", "activation": "gelu", "step_rescale": "2"], width: 5,
            parameterCount: 6 + 40 + 5),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
