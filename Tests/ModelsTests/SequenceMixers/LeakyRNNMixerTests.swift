import TestSupport
import Testing

@Suite struct LeakyRNNMixerTests {
    static let cases = [
        // H·(D + H + 3).
        MixerCase(
            "leaky_rnn", ["activation": "tanh", "hidden_size": "19"], width: 12, parameterCount: 19 * (12 + 19 + 3),
            isBitwise: true),
        MixerCase(
            "leaky_rnn", ["activation": "sigmoid", "variant": "inside"], width: 17, parameterCount: 17 * (34 + 3),
            isBitwise: true),
        MixerCase("leaky_rnn", width: 13, parameterCount: 13 * (26 + 3), isBitwise: true, hasKinks: true),
        MixerCase(
            "leaky_rnn", ["activation": "relu", "variant": "inside"], width: 13, parameterCount: 13 * (26 + 3),
            isBitwise: true, hasKinks: true),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[0]).checkLongInput()
    }
}
