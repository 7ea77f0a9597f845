import TestSupport
import Testing

@Suite struct RecurrentMixersTests {
    /// Every path of the classic cells, at sizes off the vector width.
    static let cases = [
        // G·H·(D + H + 2) a layer and direction; the input of later layers is H wide times directions.
        MixerCase("lstm", width: 18, parameterCount: 4 * 18 * (36 + 2), isBitwise: true),
        MixerCase(
            "lstm", ["num_layers": "2", "hidden_size": "21", "output_projection": "true", "forget_bias": "1"],
            width: 10,
            parameterCount: 4 * 21 * (31 + 2) + 4 * 21 * (42 + 2) + 10 * 21, isBitwise: true),
        MixerCase(
            "lstm", ["bidirectional": "true", "num_layers": "2", "hidden_size": "9", "dropout": "0.2"], width: 10,
            parameterCount: 2 * 4 * 9 * (19 + 2) + 2 * 4 * 9 * (27 + 2)),
        MixerCase(
            "lstm", ["bias": "false", "hidden_size": "35"], width: 12, parameterCount: 4 * 35 * 47, isBitwise: true),
        MixerCase("gru", ["hidden_size": "19"], width: 14, parameterCount: 3 * 19 * (33 + 2), isBitwise: true),
        MixerCase(
            "gru", ["num_layers": "2", "bias": "false", "output_projection": "true"], width: 14,
            parameterCount: 2 * 3 * 14 * 28 + 14 * 14, isBitwise: true),
        MixerCase(
            "gru", ["bidirectional": "true", "hidden_size": "9"], width: 10, parameterCount: 2 * 3 * 9 * (19 + 2)),
        MixerCase("rnn", ["hidden_size": "17"], width: 12, parameterCount: 17 * (29 + 2), isBitwise: true),
        MixerCase(
            "rnn", ["nonlinearity": "relu", "hidden_size": "17", "num_layers": "2"], width: 12,
            parameterCount: 17 * (29 + 2) + 17 * (34 + 2), isBitwise: true, hasKinks: true),
    ]

    @Test(arguments: cases) func obeyTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test(arguments: ["lstm", "gru", "rnn"]) func longInput(_ type: String) throws {
        try SequenceMixerLaws(MixerCase(type, width: 16, parameterCount: 0)).checkLongInput()
    }
}
