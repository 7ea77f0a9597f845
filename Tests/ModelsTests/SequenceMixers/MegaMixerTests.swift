import TestSupport
import Testing

@Suite struct MegaMixerTests {
    /// D(2D + 3h + Z) + 5D + 2h + 5Z + 2C − 1 and 4DN + D, at sizes off the vector width and chunks that the lengths do not fill.
    static let cases = [
        MixerCase(
            "mega", ["chunk_size": "9", "zdim": "7", "hdim": "11", "ndim": "3"], width: 10,
            parameterCount: 10 * (20 + 33 + 7) + 50 + 22 + 35 + 17 + 4 * 30 + 10),
        MixerCase(
            "mega",
            [
                "chunk_size": "70", "zdim": "5", "hdim": "8", "ndim": "2", "attention_activation": "laplace",
                "prenorm": "false",
            ], width: 18, parameterCount: 18 * (36 + 24 + 5) + 90 + 16 + 25 + 139 + 4 * 36 + 18),
        MixerCase(
            "mega",
            ["chunk_size": "1", "zdim": "3", "hdim": "6", "ndim": "1", "attention_activation": "relu2"], width: 8,
            parameterCount: 8 * (16 + 18 + 3) + 40 + 12 + 15 + 1 + 4 * 8 + 8),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[0]).checkLongInput()
    }
}
