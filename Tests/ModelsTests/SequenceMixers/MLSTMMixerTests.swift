import TestSupport
import Testing

@Suite struct MLSTMMixerTests {
    /// D(2Q + 3U + 2H) + 2H + U. The floor of the normaliser is a kink, met in the third.
    static let cases = [
        MixerCase(
            "mlstm", ["head_count": "2"], width: 16, parameterCount: 16 * (16 + 48 + 4) + 4 + 16),
        MixerCase(
            "mlstm", ["head_count": "3", "qk_dim_factor": "1", "v_dim_factor": "2", "bias": "true"], width: 18,
            parameterCount: 18 * (36 + 108 + 6) + 6 + 36 + 2 * 18 + 2 * 36 + 18),
        MixerCase(
            "mlstm", ["head_count": "2", "input_gate": "sigmoid"], width: 24,
            parameterCount: 24 * (24 + 72 + 4) + 4 + 24, hasKinks: true),
        MixerCase(
            "mlstm", ["head_count": "4", "input_gate": "sigmoid", "normalize": "false", "qk_dim_factor": "2"],
            width: 12, parameterCount: 12 * (48 + 36 + 8) + 8 + 12),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test(arguments: [0, 2]) func longInput(_ index: Int) throws {
        try SequenceMixerLaws(Self.cases[index]).checkLongInput()
    }
}
