import Kernels
import Testing

@Suite struct StateSpaceTests {
    /// B, T, C, N: one step, lengths off the stretches of 32, channels off the lanes and beyond one task, sequences short of
    /// those that go together and beyond.
    static let shapes = [
        (1, 1, 1, 1), (2, 16, 17, 3), (1, 63, 40, 8), (2, 37, 257, 2), (3, 33, 6, 3), (4, 40, 70, 2), (5, 35, 66, 1),
        (9, 3, 9, 4), (6, 33, 5, 3), (8, 40, 21, 2),
    ]

    @Test(arguments: shapes, StateSpaceScan.Transition.allCases)
    func matchesTheDefinition(
        _ size: (b: Int, t: Int, c: Int, n: Int), transition: StateSpaceScan.Transition
    ) {
        let scan = StateSpaceScan(
            batch: size.b, time: size.t, channels: size.c, states: size.n, transition: transition)
        let (u, table, skip, state) = Self.operands(scan)
        let expected = Self.definition(
            scan, transition, u: u.map(Double.init), table: table.map(Double.init), skip: skip.map(Double.init),
            state: state.map(Double.init))
        var packed = zeros(scan.packedTableCount), y = zeros(u.count), stateOut = zeros(state.count)
        scan.packTable(table, into: &packed)
        scan.forward(
            u, table: packed, skip: skip, stateIn: state, into: &y, stateOut: &stateOut, checkpoints: nil,
            threads: twoPool)
        #expect(relativeError(y, expected.y) < 1e-6)
        #expect(relativeError(stateOut, expected.state) < 1e-6)
    }

    /// Along a random direction of every operand, against differences of the definition.
    @Test(arguments: shapes, StateSpaceScan.Transition.allCases)
    func gradientsMatchDifferences(
        _ size: (b: Int, t: Int, c: Int, n: Int), transition: StateSpaceScan.Transition
    ) {
        let scan = StateSpaceScan(
            batch: size.b, time: size.t, channels: size.c, states: size.n, transition: transition)
        let (u, table, skip, state) = Self.operands(scan)
        let dy = randomFloats(u.count, seed: 5), dStateOut = randomFloats(state.count, seed: 6)
        var packed = zeros(scan.packedTableCount), y = zeros(u.count), stateOut = zeros(state.count)
        var checkpoints = zeros(scan.checkpointCount)
        scan.packTable(table, into: &packed)
        scan.forward(
            u, table: packed, skip: skip, stateIn: state, into: &y, stateOut: &stateOut, checkpoints: &checkpoints,
            threads: twoPool)
        var du = zeros(u.count), tableParts = zeros(scan.tablePartsCount), skipParts = zeros(size.b * size.c)
        var dTable = zeros(table.count), dSkip = zeros(size.c), dStateIn = zeros(state.count)
        scan.backward(
            u, table: packed, skip: skip, checkpoints: &checkpoints, dy: dy, dStateOut: dStateOut, into: &du,
            tableParts: &tableParts, skipParts: &skipParts, dStateIn: &dStateIn, threads: twoPool)
        scan.sumTableParts(&tableParts, into: &dTable)
        for (index, part) in skipParts.enumerated() { dSkip[index % size.c] += part }

        let operands = [u, table, skip, state].map { $0.map(Double.init) }
        for (index, gradient) in [du, dTable, dSkip, dStateIn].enumerated() {
            let direction = randomFloats(gradient.count, seed: UInt64(7 + index)).map(Double.init)
            func loss(_ distance: Double) -> Double {
                var moved = operands
                for i in direction.indices { moved[index][i] += distance * direction[i] }
                let (y, x) = Self.definition(
                    scan, transition, u: moved[0], table: moved[1], skip: moved[2], state: moved[3])
                return zip(y, dy).reduce(0) { $0 + $1.0 * Double($1.1) }
                    + zip(x, dStateOut).reduce(0) { $0 + $1.0 * Double($1.1) }
            }
            let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
            let products = zip(gradient, direction).map { Double($0) * $1 }
            let scale = products.reduce(0) { $0 + $1 * $1 }.squareRoot()
            #expect(abs(products.reduce(0, +) - expected) < 1e-5 * scale, "operand \(index)")
        }
    }

    static func operands(_ scan: StateSpaceScan) -> (u: [Float], table: [Float], skip: [Float], state: [Float]) {
        let (b, t, c, n) = (scan.batch, scan.time, scan.channels, scan.states)
        return (
            randomFloats(b * t * c, seed: 1), randomFloats(c * n * scan.columns, seed: 2, scale: 0.4),
            randomFloats(c, seed: 3), randomFloats(b * c * n * 2, seed: 4)
        )
    }

    static func definition(
        _ scan: StateSpaceScan, _ transition: StateSpaceScan.Transition, u: [Double], table: [Double],
        skip: [Double], state: [Double]
    ) -> (y: [Double], state: [Double]) {
        let (b, t, c, n, k) = (scan.batch, scan.time, scan.channels, scan.states, scan.columns)
        let hasRankOneTerm = transition == .diagonalPlusRankOne
        var x = state, y = [Double](repeating: 0, count: b * t * c)
        for row in 0..<b * t {
            for channel in 0..<c {
                let (base, input) = ((row / t * c + channel) * n * 2, u[row * c + channel])
                func entry(_ state: Int, _ column: Int) -> Double { table[(channel * n + state) * k + column] }
                y[row * c + channel] = skip[channel] * input
                if transition == .semiseparable {
                    y[row * c + channel] += Self.semiseparableStep(
                        Array(table[channel * n * k..<(channel + 1) * n * k]), &x[base..<base + 2 * n], input)
                    continue
                }
                var s = 0.0
                if hasRankOneTerm {
                    for m in 0..<n { s += entry(m, 8) * x[base + 2 * m] - entry(m, 9) * x[base + 2 * m + 1] }
                }
                for m in 0..<n {
                    let (re, im) = (x[base + 2 * m], x[base + 2 * m + 1])
                    x[base + 2 * m] = entry(m, 0) * re - entry(m, 1) * im + entry(m, 2) * input
                    x[base + 2 * m + 1] = entry(m, 0) * im + entry(m, 1) * re + entry(m, 3) * input
                    if hasRankOneTerm {
                        x[base + 2 * m] += entry(m, 6) * s
                        x[base + 2 * m + 1] += entry(m, 7) * s
                    }
                    y[row * c + channel] += entry(m, 4) * x[base + 2 * m] - entry(m, 5) * x[base + 2 * m + 1]
                }
            }
        }
        return (y, x)
    }

    /// Moves the states on, and returns `Σ c x`.
    static func semiseparableStep(_ table: [Double], _ x: inout ArraySlice<Double>, _ u: Double) -> Double {
        let count = x.count
        func row(_ row: Int) -> [Double] { (0..<count).map { table[$0 * 8 + row] } }
        let (a, b, c, h, p, l, v, m) = (row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7))
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
