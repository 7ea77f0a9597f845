import TestSupport
import Testing

@Suite struct RecurrentHighwayMixerTests {
    static let cases = [
        // k·H·(D + depth·(H + 1)).
        MixerCase(
            "rhn", ["hidden_size": "19"], width: 12, parameterCount: 2 * 19 * (12 + 4 * 20), isBitwise: true),
        MixerCase(
            "rhn", ["depth": "3", "coupled": "false", "init_bias": "-1"], width: 14,
            parameterCount: 3 * 14 * (14 + 3 * 15), isBitwise: true),
        MixerCase("rhn", ["depth": "1"], width: 17, parameterCount: 2 * 17 * (17 + 18), isBitwise: true),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[0]).checkLongInput()
    }
}
