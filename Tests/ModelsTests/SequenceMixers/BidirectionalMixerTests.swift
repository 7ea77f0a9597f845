import TestSupport
import Testing

@Suite struct BidirectionalMixerTests {
    static let cases = [
        MixerCase(
            "bidirectional", ["mixer.type": "mingru"], width: 10, parameterCount: 2 * 2 * 10 * 10, hasKinks: true),
        MixerCase(
            "bidirectional",
            [
                "mixer.type": "gru", "mixer.hidden_size": "9", "mixer.dropout": "0.2", "mixer.num_layers": "2",
                "merge": "sum",
            ],
            width: 12, parameterCount: 2 * (3 * 9 * (12 + 9 + 2) + 3 * 9 * (18 + 2))),
        MixerCase(
            "bidirectional",
            ["mixer.type": "attention", "mixer.head_count": "2", "mixer.rotary": "true", "merge": "linear"],
            width: 12, parameterCount: 2 * 4 * 12 * 12 + 2 * 12 * 12 + 12),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }
}
