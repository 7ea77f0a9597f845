import TestSupport
import Testing

@Suite struct RWKV4ChannelMixerTests {
    /// 2·D·F + D² + 2D parameters.
    static let cases = [
        MixerCase("rwkv4_channel_mix", width: 10, parameterCount: 2 * 400 + 100 + 20, hasKinks: true),
        MixerCase(
            "rwkv4_channel_mix", ["hidden_size": "21", "layer_id": "5"], width: 17,
            parameterCount: 2 * 17 * 21 + 289 + 34, hasKinks: true),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
