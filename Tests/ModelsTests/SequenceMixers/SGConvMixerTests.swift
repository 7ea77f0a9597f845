import TestSupport
import Testing

@Suite struct SGConvMixerTests {
    /// S·D·d + D + D² + D parameters, S = 1 + ⌈log2(l_max/d)⌉.
    static let cases = [
        MixerCase("sgconv", ["l_max": "24", "kernel_dim": "4"], width: 10, parameterCount: 4 * 40 + 10 + 110),
        // More taps than tokens, one piece, features that decay differently.
        MixerCase(
            "sgconv", ["l_max": "300", "kernel_dim": "300", "decay_min": "1", "decay_max": "2"], width: 3,
            parameterCount: 900 + 3 + 12),
        MixerCase(
            "sgconv", ["l_max": "65", "kernel_dim": "8", "decay_min": "1", "decay_max": "1.5"], width: 19,
            parameterCount: 5 * 152 + 19 + 380),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws { try SequenceMixerLaws(Self.cases[0]).checkLongInput() }
}
