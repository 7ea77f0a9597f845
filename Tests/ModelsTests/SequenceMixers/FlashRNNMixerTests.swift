import TestSupport
import Testing

@Suite struct FlashRNNMixerTests {
    static let cases = [
        // Gw·H·D + Gr·H·S + Gb·H.
        MixerCase(
            "flashrnn", ["function": "elman", "head_count": "2", "hidden_size": "34"], width: 12,
            parameterCount: 34 * (12 + 17 + 1), isBitwise: true),
        MixerCase(
            "flashrnn", ["function": "lstm", "head_count": "3"], width: 21, parameterCount: 4 * 21 * (21 + 7 + 1),
            isBitwise: true),
        MixerCase(
            "flashrnn", ["function": "gru", "head_count": "2"], width: 22,
            parameterCount: 3 * 22 * (22 + 11) + 4 * 22, isBitwise: true),
        MixerCase(
            "flashrnn", ["function": "slstm", "head_count": "2", "hidden_size": "26"], width: 10,
            parameterCount: 4 * 26 * (10 + 13 + 1), isBitwise: true,
            stabilizer: .init("s_l3", scaling: ["s_l1", "s_l2"])),
        // A head beyond one packed block, and more than one of them.
        MixerCase(
            "flashrnn", ["function": "lstm", "head_count": "2", "hidden_size": "152"], width: 8,
            parameterCount: 4 * 152 * (8 + 76 + 1), isBitwise: true),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test(arguments: cases.dropLast()) func longInput(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkLongInput()
    }
}
