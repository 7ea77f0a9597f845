import Kernels
import Testing

@Suite struct StateSpaceTests {
    /// B, T, C, N: one step, lengths off the stretches of 16, channels off the lanes and beyond one task.
    static let shapes = [(1, 1, 1, 1), (2, 16, 17, 3), (1, 63, 40, 8), (2, 37, 257, 2)]

    @Test(arguments: shapes, StateSpaceScan.Transition.allCases)
    func matchesTheDefinition(
        _ size: (b: Int, t: Int, c: Int, n: Int), transition: StateSpaceScan.Transition
    ) {
        let (b, t, c, n) = size
        let scan = StateSpaceScan(batch: b, time: t, channels: c, states: n, transition: transition)
        let hasRankOneTerm = transition == .diagonalPlusRankOne
        let k = scan.columns
        let u = randomFloats(b * t * c, seed: 1), table = randomFloats(c * n * k, seed: 2, scale: 0.4)
        let skip = randomFloats(c, seed: 3), state = randomFloats(b * c * n * 2, seed: 4)

        var x = state.map(Double.init), expected = [Double](repeating: 0, count: b * t * c)
        for row in 0..<b * t {
            for channel in 0..<c {
                let (base, input) = ((row / t * c + channel) * n * 2, Double(u[row * c + channel]))
                func entry(_ state: Int, _ column: Int) -> Double { Double(table[(channel * n + state) * k + column]) }
                if transition == .semiseparable {
                    expected[row * c + channel] =
                        Double(skip[channel]) * input
                        + Self.semiseparableStep(
                            Array(table[channel * n * k..<(channel + 1) * n * k]), &x[base..<base + 2 * n], input)
                    continue
                }
                var s = 0.0
                if hasRankOneTerm {
                    for m in 0..<n { s += entry(m, 8) * x[base + 2 * m] - entry(m, 9) * x[base + 2 * m + 1] }
                }
                var y = Double(skip[channel]) * input
                for m in 0..<n {
                    let (re, im) = (x[base + 2 * m], x[base + 2 * m + 1])
                    x[base + 2 * m] = entry(m, 0) * re - entry(m, 1) * im + entry(m, 2) * input
                    x[base + 2 * m + 1] = entry(m, 0) * im + entry(m, 1) * re + entry(m, 3) * input
                    if hasRankOneTerm {
                        x[base + 2 * m] += entry(m, 6) * s
                        x[base + 2 * m + 1] += entry(m, 7) * s
                    }
                    y += entry(m, 4) * x[base + 2 * m] - entry(m, 5) * x[base + 2 * m + 1]
                }
                expected[row * c + channel] = y
            }
        }

        var packed = zeros(scan.packedTableCount), y = zeros(u.count), stateOut = zeros(state.count)
        scan.packTable(table, into: &packed)
        scan.forward(
            u, table: packed, skip: skip, stateIn: state, into: &y, stateOut: &stateOut, checkpoints: nil,
            threads: twoPool)
        #expect(relativeError(y, expected) < 1e-6)
        #expect(relativeError(stateOut, x) < 1e-6)
    }

    /// Moves the states on, and returns `Σ c x`.
    static func semiseparableStep(_ table: [Float], _ x: inout ArraySlice<Double>, _ u: Double) -> Double {
        let count = x.count
        func row(_ row: Int) -> [Double] { (0..<count).map { Double(table[$0 / 2 * 16 + 2 * row + $0 % 2]) } }
        let (a, b, c, p, l, v, h, m) = (row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7))
        var g = [Double](repeating: 0, count: count + 1), w = g  // g_{j−1} and w_j stand at j
        let old = Array(x)
        for j in 0..<count { g[j + 1] = p[j] * old[j] + l[j] * g[j] }
        for j in (0..<count).reversed() { w[j] = g[j + 1] + v[j] * w[j + 1] }
        var y = 0.0
        for (j, index) in x.indices.enumerated() {
            x[index] = a[j] * old[j] + b[j] * u + h[j] * g[j] + m[j] * w[j + 1]
            y += c[j] * x[index]
        }
        return y
    }

    @Test(arguments: [(1, 1, 1), (2, 63, 17), (1, 100, 64), (2, 7, 100)])
    func complexScanMatchesTheDefinition(_ b: Int, _ t: Int, _ lanes: Int) {
        let scan = ComplexScan(batch: b, time: t, lanes: lanes)
        let a = randomFloats(2 * lanes, seed: 1, scale: 0.7), inputs = randomFloats(b * t * 2 * lanes, seed: 2)
        let state = randomFloats(b * lanes * 2, seed: 3)
        var expected = [Double](repeating: 0, count: inputs.count), last = state.map(Double.init)
        for row in 0..<b * t {
            for lane in 0..<lanes {
                let (at, pair) = (row * 2 * lanes + lane, (row / t * lanes + lane) * 2)
                let (re, im, aRe, aIm) = (last[pair], last[pair + 1], Double(a[lane]), Double(a[lanes + lane]))
                last[pair] = aRe * re - aIm * im + Double(inputs[at])
                last[pair + 1] = aRe * im + aIm * re + Double(inputs[at + lanes])
                expected[at] = last[pair]
                expected[at + lanes] = last[pair + 1]
            }
        }
        var x = zeros(inputs.count), stateOut = zeros(state.count)
        scan.forward(a: a, b: inputs, stateIn: state, into: &x, stateOut: &stateOut, threads: twoPool)
        #expect(relativeError(x, expected) < 1e-6)
        #expect(relativeError(stateOut, last) < 1e-6)
    }
}
