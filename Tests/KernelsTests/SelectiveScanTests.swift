import Glibc
import Kernels
import Testing

/// Operands that point into arrays for the length of `body`.
private func withOperands(
    _ x: [Float], _ dt: [Float], _ z: [Float], _ inputs: [Float], _ outputs: [Float], _ decay: [Float], _ skip: [Float],
    stride: Int, _ body: (SelectiveScan.Operands) -> Void
) {
    func operands(
        _ x: UnsafePointer<Float>, _ dt: UnsafePointer<Float>, _ z: UnsafePointer<Float>,
        _ inputs: UnsafePointer<Float>, _ outputs: UnsafePointer<Float>, _ decay: UnsafePointer<Float>,
        _ skip: UnsafePointer<Float>
    ) {
        body(
            SelectiveScan.Operands(
                x: x, dt: dt, z: z, inputs: inputs, outputs: outputs, projectedStride: stride, decay: decay,
                skip: skip))
    }
    operands(x, dt, z, inputs, outputs, decay, skip)
}

@Suite struct SelectiveScanTests {
    /// B, T, C, N: one step, lengths off the stretches of 16, channels off the lanes and beyond one task.
    static let shapes = [(1, 1, 1, 1), (2, 16, 17, 3), (1, 63, 40, 16), (2, 37, 257, 2)]

    /// Inputs of a scan, and what the definition makes of them in Double.
    struct Problem {
        let scan: SelectiveScan
        let x, dt, z, projected, logA, skip, state: [Float]

        init(_ b: Int, _ t: Int, _ c: Int, _ n: Int) {
            scan = SelectiveScan(batch: b, time: t, channels: c, states: n)
            x = randomFloats(b * t * c, seed: 1)
            dt = randomFloats(b * t * c, seed: 2, scale: 4)
            z = randomFloats(b * t * c, seed: 3, scale: 3)
            projected = randomFloats(b * t * 2 * n, seed: 4)
            logA = randomFloats(c * n, seed: 5, scale: 2)
            skip = randomFloats(c, seed: 6)
            state = randomFloats(b * c * n, seed: 7)
        }

        func reference() -> (y: [Double], state: [Double]) {
            let (b, t, c, n) = (scan.batch, scan.time, scan.channels, scan.states)
            var h = state.map(Double.init), y = [Double](repeating: 0, count: b * t * c)
            for row in 0..<b * t {
                for channel in 0..<c {
                    let i = row * c + channel
                    let delta = log1p(exp(Double(dt[i])))
                    var sum = Double(skip[channel]) * Double(x[i])
                    for k in 0..<n {
                        let at = (row / t * c + channel) * n + k
                        h[at] =
                            exp(-delta * exp(Double(logA[channel * n + k]))) * h[at]
                            + delta * Double(projected[row * 2 * n + k]) * Double(x[i])
                        sum += h[at] * Double(projected[row * 2 * n + n + k])
                    }
                    y[i] = sum * Double(z[i]) / (1 + exp(-Double(z[i])))
                }
            }
            return (y, h)
        }

        func run(_ threads: ThreadPool) -> (y: [Float], state: [Float]) {
            var y = zeros(x.count), stateOut = zeros(state.count), decay = zeros(scan.packedCount)
            scan.packDecay(logA, into: &decay)
            let outputs = Array(projected[scan.states...])
            withOperands(x, dt, z, projected, outputs, decay, skip, stride: 2 * scan.states) {
                scan.forward($0, stateIn: state, into: &y, stateOut: &stateOut, checkpoints: nil, threads: threads)
            }
            return (y, stateOut)
        }
    }

    @Test(arguments: shapes) func matchesTheDefinition(_ b: Int, _ t: Int, _ c: Int, _ n: Int) {
        let problem = Problem(b, t, c, n)
        let (y, state) = problem.reference()
        let got = problem.run(onePool)
        // ΔA reaches −30 and is rounded before the exponential: 30 half-ulps, alone where there is one element.
        #expect(relativeError(got.y, y) < 1e-5)
        #expect(relativeError(got.state, state) < 1e-5)
    }

    @Test func threadsLeaveNoTrace() {
        let problem = Problem(2, 37, 300, 4)
        expectSameBits(problem.run(onePool).y, problem.run(twoPool).y)
    }

    /// e^{ΔA} vanishes and Δ is as large as a float: the state is the last input alone.
    @Test func forgetsEverythingAtLargeSteps() {
        let scan = SelectiveScan(batch: 1, time: 20, channels: 3, states: 2)
        var decay = zeros(scan.packedCount), y = zeros(60), state = zeros(6)
        scan.packDecay(zeros(6), into: &decay)
        let (x, dt) = ([Float](repeating: 1, count: 60), [Float](repeating: 1e6, count: 60))
        let ones = [Float](repeating: 1, count: 80)
        withOperands(x, dt, dt, ones, ones, decay, x, stride: 2) {
            scan.forward($0, stateIn: nil, into: &y, stateOut: &state, checkpoints: nil, threads: onePool)
        }
        #expect(state == [Float](repeating: 1e6, count: 6))
    }
}
