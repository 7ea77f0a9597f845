import TestSupport
import Testing

@Suite struct RWKV4TimeMixerTests {
    /// 4D² + 5D parameters. The stored exponent `o` is a maximum: differences across its kink are inexact.
    static let cases = [
        MixerCase("rwkv4_time_mix", width: 18, parameterCount: 4 * 324 + 90, hasKinks: true),
        MixerCase(
            "rwkv4_time_mix", ["n_layer": "3", "layer_id": "2"], width: 9, parameterCount: 4 * 81 + 45,
            hasKinks: true),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
