import Glibc
import Kernels
import Testing

@Suite struct ActivationsTests {
    static func reference(_ activation: Activation, _ x: Double) -> Double {
        switch activation {
        case .tanh: tanh(x)
        case .sigmoid: 1 / (1 + exp(-x))
        case .relu: max(x, 0)
        case .silu: x / (1 + exp(-x))
        case .geluTanh: x / (1 + exp(-2 * (2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
        case .gelu: 0.5 * x * erfc(-x / 2.0.squareRoot())
        }
    }

    /// The GELUs lose a few bits where their factor is the exponential of a large rounded number.
    static let tolerance: [Activation: Double] = [
        .tanh: 3, .sigmoid: 3, .relu: 0, .silu: 4, .geluTanh: 24, .gelu: 70,
    ]

    @Test(arguments: Activation.allCases)
    func accurateOverTheRange(activation: Activation) {
        let count = 20_000
        for range: Float in [0.01, 1, 4, 12] {
            let x = randomFloats(count, seed: 6, scale: range)
            var y = zeros(count)
            Activations.forward(activation, x, into: &y, count: count, threads: twoPool)
            var worst = 0.0
            for (x, y) in zip(x, y) where !(activation == .geluTanh && x < -4) {
                worst = max(worst, ulps(y, Self.reference(activation, Double(x))))
            }
            #expect(worst <= Self.tolerance[activation]!, "range \(range): \(worst) ulp")
        }
    }

    @Test func exponentialIsAccurateAndComplete() {
        let count = 50_000
        let x = randomFloats(count, seed: 7, scale: 100)
        var y = zeros(count)
        Activations.exp(x, into: &y, count: count, threads: onePool)
        #expect(zip(x, y).map { ulps($1, exp(Double($0))) }.max()! <= 1.2)
        let special: [Float] = [.infinity, -.infinity, .nan, 0, 88.73, -103.98]
        var z = zeros(6)
        Activations.exp(special, into: &z, count: 6, threads: onePool)
        #expect(z[0] == .infinity && z[1] == 0 && z[2].isNaN && z[3] == 1 && z[4] == .infinity && z[5] == 0)
    }

    @Test(arguments: Activation.allCases)
    func limitsAndNaN(activation: Activation) {
        let x: [Float] = [.infinity, -.infinity, .nan, 0, 1e30, -1e30]
        var y = zeros(6)
        Activations.forward(activation, x, into: &y, count: 6, threads: onePool)
        let bounded = activation == .tanh || activation == .sigmoid
        #expect(y[0] == (bounded ? 1 : .infinity))
        #expect(y[1] == (activation == .tanh ? -1 : 0))
        #expect(y[2].isNaN)
        #expect(y[3] == (activation == .sigmoid ? 0.5 : 0))
        #expect(y[4] == (bounded ? 1 : 1e30))
        var dx = zeros(6)
        let ones = [Float](repeating: 1, count: 6)
        Activations.backward(
            activation, ones, saved: activation.savesOutput ? y : x, into: &dx, count: 6, threads: onePool)
        #expect(dx[0] == (bounded ? 0 : 1))
        #expect(dx[1] == 0)
        // As in PyTorch, relu passes the gradient at NaN; its output is NaN already.
        #expect(dx[2].isNaN || activation == .relu)
    }

    @Test(arguments: Activation.allCases, awkwardSizes)
    func gradientMatchesCentralDifferences(activation: Activation, count: Int) {
        let x = randomFloats(count, seed: 8, scale: 5), dy = randomFloats(count, seed: 9)
        var y = zeros(count), dx = zeros(count)
        Activations.forward(activation, x, into: &y, count: count, threads: onePool)
        Activations.backward(
            activation, dy, saved: activation.savesOutput ? y : x, into: &dx, count: count, threads: onePool)
        let reference = zip(x, dy).map { x, dy in
            let h = 1e-6, x = Double(x)
            return Double(dy) * (Self.reference(activation, x + h) - Self.reference(activation, x - h)) / (2 * h)
        }
        #expect(relativeError(dx, reference) < 1e-6)
    }

    /// The short last vector uses the arithmetic of a full one.
    @Test(arguments: Activation.allCases)
    func resultDoesNotDependOnPositionOrThreads(activation: Activation) {
        let count = 40_003
        let x = randomFloats(count, seed: 10, scale: 8)
        var whole = zeros(count), shifted = zeros(count), threaded = zeros(count)
        Activations.forward(activation, x, into: &whole, count: count, threads: onePool)
        Activations.forward(activation, x, into: &threaded, count: count, threads: twoPool)
        expectSameBits(whole, threaded)
        for start in [1, 5, 39_990] {
            x.withUnsafeBufferPointer {
                Activations.forward(
                    activation, $0.baseAddress! + start, into: &shifted, count: count - start, threads: onePool)
            }
            expectSameBits(Array(shifted.prefix(count - start)), Array(whole.dropFirst(start)))
        }
    }

    @Test(arguments: awkwardSizes)
    func swiGLU(count: Int) {
        let gate = randomFloats(count, seed: 11, scale: 6), up = randomFloats(count, seed: 12)
        let dy = randomFloats(count, seed: 13)
        var y = zeros(count), dGate = zeros(count), dUp = zeros(count)
        Activations.swiGLU(gate: gate, up: up, into: &y, count: count, threads: onePool)
        Activations.swiGLUBackward(
            dy, gate: gate, up: up, dGate: &dGate, dUp: &dUp, count: count, threads: onePool)
        let silu = gate.map { Double($0) / (1 + exp(-Double($0))) }
        let slope = gate.map { g in
            let s = 1 / (1 + exp(-Double(g)))
            return s * (1 + Double(g) * (1 - s))
        }
        #expect(relativeError(y, (0..<count).map { silu[$0] * Double(up[$0]) }) < 2e-7)
        #expect(relativeError(dUp, (0..<count).map { silu[$0] * Double(dy[$0]) }) < 2e-7)
        #expect(relativeError(dGate, (0..<count).map { slope[$0] * Double(up[$0]) * Double(dy[$0]) }) < 3e-7)
        let limits: [Float] = [-.infinity], one: [Float] = [1]
        Activations.swiGLU(gate: limits, up: one, into: &y, count: 1, threads: onePool)
        #expect(y[0] == 0)
    }

    @Test(arguments: awkwardSizes)
    func glu(count: Int) {
        let gate = randomFloats(count, seed: 14, scale: 6), up = randomFloats(count, seed: 15)
        let dy = randomFloats(count, seed: 16)
        var y = zeros(count), dGate = zeros(count), dUp = zeros(count)
        Activations.glu(gate: gate, up: up, into: &y, count: count, threads: onePool)
        Activations.gluBackward(dy, gate: gate, up: up, dGate: &dGate, dUp: &dUp, count: count, threads: onePool)
        let s = gate.map { 1 / (1 + exp(-Double($0))) }
        #expect(relativeError(y, (0..<count).map { s[$0] * Double(up[$0]) }) < 2e-7)
        #expect(relativeError(dUp, (0..<count).map { s[$0] * Double(dy[$0]) }) < 2e-7)
        let slopes = (0..<count).map { s[$0] * (1 - s[$0]) * Double(up[$0]) * Double(dy[$0]) }
        #expect(relativeError(dGate, slopes) < 3e-7)
    }

    /// Relative accuracy holds in both tails, and the ends are the right ones.
    @Test func softplusAndLogSigmoid() {
        let x: [Float] =
            (0..<200).map { Float($0 - 100) * 0.87 } + [0, 1e-20, -1e-20, -103, 500, .infinity, -.infinity, .nan]
        var plus = zeros(x.count), gate = zeros(x.count), slope = zeros(x.count)
        let ones = [Float](repeating: 1, count: x.count)
        Activations.softplus(x, into: &plus, count: x.count, threads: onePool)
        Activations.logSigmoid(x, factor: 0.0625, into: &gate, count: x.count, threads: onePool)
        Activations.logSigmoidBackward(ones, x: x, factor: 0.0625, into: &slope, count: x.count, threads: onePool)
        for (i, value) in x.enumerated() {
            func reference(_ v: Double) -> Double { v.isNaN ? v : max(v, 0) + log1p(exp(-abs(v))) }
            #expect(ulps(plus[i], reference(Double(value))) < 4, "softplus \(value): \(plus[i])")
            #expect(ulps(gate[i], -0.0625 * reference(-Double(value))) < 4, "log σ \(value): \(gate[i])")
            #expect(abs(Double(slope[i]) - 0.0625 / (1 + exp(Double(value)))) < 1e-7 || value.isNaN)
        }
    }
}
