import Models
import TestSupport
import Testing

/// The smallest models that exercise every path of every mixer; sizes are chosen off the vector width.
private let cases: [MixerCase] = [
    // D·(2H + 2Hkv)·d, and (H + 2·Hkv)·d + D biases.
    MixerCase("attention", ["head_count": "4", "rotary": "true"], width: 24, parameterCount: 4 * 24 * 24),
    MixerCase(
        "attention", ["head_count": "6", "kv_head_count": "2", "head_size": "10", "bias": "true", "rotary": "true"],
        width: 20, parameterCount: 20 * (12 + 4) * 10 + (6 + 4) * 10 + 20),
    MixerCase(
        "attention", ["head_count": "2", "window": "9", "rotary": "true"], width: 16, parameterCount: 4 * 16 * 16),
    MixerCase("attention", ["head_count": "2", "window": "1"], width: 8, parameterCount: 4 * 8 * 8),
    MixerCase(
        "attention", ["head_count": "3", "kv_head_count": "1", "rotary": "false"], width: 21,
        parameterCount: 21 * (6 + 2) * 7),
    // G·H·(D + H + 2) a layer and direction; the input of later layers is H wide times directions.
    MixerCase("lstm", width: 18, parameterCount: 4 * 18 * (36 + 2), isBitwise: true),
    MixerCase(
        "lstm", ["num_layers": "2", "hidden_size": "21", "output_projection": "true", "forget_bias": "1"], width: 10,
        parameterCount: 4 * 21 * (31 + 2) + 4 * 21 * (42 + 2) + 10 * 21, isBitwise: true),
    MixerCase(
        "lstm", ["bidirectional": "true", "num_layers": "2", "hidden_size": "9", "dropout": "0.2"], width: 10,
        parameterCount: 2 * 4 * 9 * (19 + 2) + 2 * 4 * 9 * (27 + 2)),
    MixerCase("lstm", ["bias": "false", "hidden_size": "35"], width: 12, parameterCount: 4 * 35 * 47, isBitwise: true),
    MixerCase("gru", ["hidden_size": "19"], width: 14, parameterCount: 3 * 19 * (33 + 2), isBitwise: true),
    MixerCase(
        "gru", ["num_layers": "2", "bias": "false", "output_projection": "true"], width: 14,
        parameterCount: 2 * 3 * 14 * 28 + 14 * 14, isBitwise: true),
    MixerCase("gru", ["bidirectional": "true", "hidden_size": "9"], width: 10, parameterCount: 2 * 3 * 9 * (19 + 2)),
    MixerCase("rnn", ["hidden_size": "17"], width: 12, parameterCount: 17 * (29 + 2), isBitwise: true),
    MixerCase(
        "rnn", ["nonlinearity": "relu", "hidden_size": "17", "num_layers": "2"], width: 12,
        parameterCount: 17 * (29 + 2) + 17 * (34 + 2), isBitwise: true, hasKinks: true),
]

@Suite struct SequenceMixerTests {
    @Test(arguments: cases) func everyMixerObeysTheLaws(of mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func everyRegisteredMixerHasACase() {
        #expect(Set(cases.map(\.type)) == Set(SequenceMixers.all.map { $0.name }))
    }

    @Test func theRegistryIsAlphabetical() {
        let names = SequenceMixers.all.map { $0.name }
        #expect(names == names.sorted())
    }
}
