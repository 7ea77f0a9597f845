import TestSupport
import Testing

@Suite struct GAMMixerTests {
    /// D·(W + M + 2D + 3), at sizes off the vector width.
    static let cases = [
        MixerCase("gam", ["num_memory_slots": "21"], width: 14, parameterCount: 14 * (3 + 21 + 28 + 3)),
        MixerCase(
            "gam", ["num_memory_slots": "1", "conv_kernel_size": "5"], width: 18,
            parameterCount: 18 * (5 + 1 + 36 + 3)),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[0]).checkLongInput()
    }
}
