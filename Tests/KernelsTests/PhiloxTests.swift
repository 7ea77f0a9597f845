import Kernels
import Testing

@Suite struct PhiloxTests {
    /// Known answers published with Random123 (kat_vectors, philox4x32, 10 rounds).
    @Test func knownAnswers() {
        #expect(Philox.words(PhiloxStream(seed: 0), count: 4) == [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8])
        let ones = PhiloxStream(seed: .max, a: .max, b: .max, c: .max)
        #expect(
            Philox.words(ones, first: 4 * 0xffff_ffff, count: 4) == [
                0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd,
            ])
        let pi = PhiloxStream(seed: 0x299f_31d0_a409_3822, a: 0x85a3_08d3, b: 0x1319_8a2e, c: 0x0370_7344)
        #expect(
            Philox.words(pi, first: 4 * 0x243f_6a88, count: 4) == [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1])
    }

    @Test func anElementDoesNotDependOnWhoAsks() {
        let stream = PhiloxStream(seed: 42, a: 1, b: 2, c: 3), count = 40_000
        let all = Philox.words(stream, count: count)
        for (first, length) in [(0, 1), (1, 7), (63, 100), (64, 64), (129, 257)] {
            #expect(Philox.words(stream, first: first, count: length) == Array(all[first..<first + length]))
        }
        var one = zeros(count), two = zeros(count), part = zeros(100)
        Philox.fillNormal(&one, stream: stream, count: count, threads: onePool)
        Philox.fillNormal(&two, stream: stream, count: count, threads: twoPool)
        Philox.fillNormal(&part, stream: stream, first: 777, count: 100, threads: onePool)
        expectSameBits(one, two)
        expectSameBits(part, Array(one[777..<877]))
    }

    /// Within three deviations; variance 0.9733 of that of the normal. Drawn again or not, an element is the same
    /// whoever asks for it.
    @Test func truncatedNormalStaysWithinThreeDeviations() {
        let count = 1 << 18, stream = PhiloxStream(seed: 5, a: 1)
        var all = zeros(count), part = zeros(5000)
        Philox.fillTruncatedNormal(&all, deviation: 2, stream: stream, count: count, threads: twoPool)
        Philox.fillTruncatedNormal(&part, deviation: 2, stream: stream, first: 777, count: 5000, threads: onePool)
        expectSameBits(part, Array(all[777..<5777]))
        #expect(all.allSatisfy { abs($0) <= 6 } && all.max()! > 5.9 && all.min()! < -5.9)
        let squares = all.reduce(0.0) { $0 + Double($1) * Double($1) } / Double(count)
        #expect(abs(squares - 4 * 0.97334) < 0.04)
        #expect(abs(all.reduce(0.0) { $0 + Double($1) } / Double(count)) < 0.016)
    }

    @Test func uniformAndNormalHaveTheirMoments() {
        let count = 1 << 20
        var u = zeros(count), n = zeros(count)
        Philox.fillUniform(&u, low: -1, high: 3, stream: PhiloxStream(seed: 1), count: count, threads: twoPool)
        Philox.fillNormal(&n, mean: 2, deviation: 0.5, stream: PhiloxStream(seed: 2), count: count, threads: twoPool)
        #expect(u.min()! >= -1 && u.max()! < 3)
        func moment(_ x: [Float], _ power: Int, around: Double) -> Double {
            x.reduce(0.0) { sum, v in sum + (0..<power).reduce(1.0) { p, _ in p * (Double(v) - around) } }
                / Double(count)
        }
        // Four standard errors of each moment.
        #expect(abs(moment(u, 1, around: 0) - 1) < 0.0046)
        #expect(abs(moment(u, 2, around: 1) - 4.0 / 3) < 0.0047)
        #expect(abs(moment(n, 1, around: 0) - 2) < 0.002)
        #expect(abs(moment(n, 2, around: 2) - 0.25) < 0.0014)
        #expect(abs(moment(n, 3, around: 2)) < 0.002)
        #expect(abs(moment(n, 4, around: 2) - 3 * 0.0625) < 0.0025)
    }
}
