import TestSupport
import Testing

@Suite struct TCNCAMixerTests {
    /// D(2D + 3h + Z) + 5D + 2h + 5Z + 2C − 1 and nD(K + 1) + D, at sizes off the vector width; dilations 1, 2, 4 and 1, 3.
    static let cases = [
        MixerCase(
            "tcnca", ["chunk_size": "9", "zdim": "7", "hdim": "11", "tcn_layers": "3"], width: 10,
            parameterCount: 10 * (20 + 33 + 7) + 50 + 22 + 35 + 17 + 3 * 10 * 4 + 10),
        MixerCase(
            "tcnca",
            [
                "chunk_size": "40", "zdim": "5", "hdim": "8", "tcn_layers": "2", "tcn_kernel": "4",
                "tcn_dilation": "3", "attention_activation": "laplace",
            ], width: 18, parameterCount: 18 * (36 + 24 + 5) + 90 + 16 + 25 + 79 + 2 * 18 * 5 + 18),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[0]).checkLongInput()
    }
}
