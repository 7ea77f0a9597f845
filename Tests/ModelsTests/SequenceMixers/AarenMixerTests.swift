import TestSupport
import Testing

@Suite struct AarenMixerTests {
    static let state = MixerCase.Stabilizer("m", scaling: ["u", "w"])

    /// 4D² + D, at sizes off the vector width.
    static let cases = [
        MixerCase("aaren", ["head_count": "2"], width: 14, parameterCount: 4 * 14 * 14 + 14, stabilizer: state),
        MixerCase("aaren", ["head_count": "1"], width: 21, parameterCount: 4 * 21 * 21 + 21, stabilizer: state),
    ]

    @Test(arguments: cases) func obeysTheLaws(_ mixerCase: MixerCase) throws {
        try SequenceMixerLaws(mixerCase).checkAll()
    }

    @Test func longInput() throws {
        try SequenceMixerLaws(Self.cases[0]).checkLongInput()
    }
}
