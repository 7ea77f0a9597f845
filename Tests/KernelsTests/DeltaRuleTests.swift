import Glibc
import Kernels
import Testing

@Suite struct DeltaRuleTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var batch = 2
        var tokens: Int
        var steps = 1
        var keyHeads = 2
        var valueHeads = 2
        var keyWidth = 16
        var valueWidth = 16
        /// Log-decays are uniform in `(−decay, 0]`; nil: none.
        var decay: Float? = 0.5
        var startsFromZero = false

        var shape: DeltaRuleShape {
            DeltaRuleShape(
                batch: batch, tokens: tokens, steps: steps, keyHeads: keyHeads, valueHeads: valueHeads,
                keyWidth: keyWidth, valueWidth: valueWidth)
        }
        var testDescription: String {
            "B\(batch)-T\(tokens)-n\(steps)-H\(keyHeads)/\(valueHeads)-K\(keyWidth)-V\(valueWidth)"
                + (decay.map { "-g\($0)" } ?? "")
        }
    }

    static let cases = [
        Case(tokens: 1), Case(tokens: 7, keyWidth: 5, valueWidth: 3), Case(tokens: 63, keyWidth: 64, valueWidth: 64),
        Case(tokens: 100, keyWidth: 20, valueWidth: 33, decay: nil),
        Case(batch: 1, tokens: 257, keyHeads: 1, valueHeads: 1, keyWidth: 32, valueWidth: 80, startsFromZero: true),
        Case(tokens: 130, keyHeads: 2, valueHeads: 6, keyWidth: 24, valueWidth: 16),
        Case(tokens: 33, steps: 2), Case(tokens: 65, steps: 3, keyWidth: 17, valueWidth: 50, decay: nil),
        Case(tokens: 3, steps: 64, keyHeads: 1, valueHeads: 2, keyWidth: 100, valueWidth: 18),
        Case(tokens: 100, keyWidth: 16, valueWidth: 16, decay: 60),
    ]

    /// Everything that the rule reads, or everything that is a gradient of it.
    struct Tensors<Scalar> {
        var q, k, v, beta, logDecay, state: [Scalar]
        var all: [WritableKeyPath<Tensors, [Scalar]>] { [\.q, \.k, \.v, \.beta, \.logDecay, \.state] }
    }

    struct Result { var output, finalState: [Float], gradients: Tensors<Float> }

    static func inputs(_ c: Case) -> Tensors<Float> {
        let tokens = c.batch * c.tokens, rows = tokens * c.steps
        return Tensors(
            q: randomFloats(tokens * c.keyHeads * c.keyWidth, seed: 1, scale: 2),
            k: randomFloats(rows * c.keyHeads * c.keyWidth, seed: 2, scale: 2),
            v: randomFloats(rows * c.valueHeads * c.valueWidth, seed: 3),
            beta: randomFloats(rows * c.valueHeads, seed: 4).map { 1 + $0 },
            logDecay: c.decay.map { decay in
                randomFloats(tokens * c.valueHeads, seed: 5).map { ($0 - 1) / 2 * decay }
            } ?? [],
            state: c.startsFromZero
                ? [] : randomFloats(c.batch * c.valueHeads * c.keyWidth * c.valueWidth, seed: 6))
    }

    static func outputGradients(_ c: Case) -> (output: [Float], state: [Float]) {
        (
            randomFloats(c.batch * c.tokens * c.valueHeads * c.valueWidth, seed: 7),
            randomFloats(c.batch * c.valueHeads * c.keyWidth * c.valueWidth, seed: 8)
        )
    }

    static func run(_ c: Case, _ x: Tensors<Float>, pool: ThreadPool) -> Result {
        let shape = c.shape, d = outputGradients(c)
        let stateCount = d.state.count
        var result = Result(
            output: zeros(d.output.count), finalState: zeros(stateCount),
            gradients: Tensors(
                q: zeros(x.q.count), k: zeros(x.k.count), v: zeros(x.v.count), beta: zeros(x.beta.count),
                logDecay: zeros(x.logDecay.count), state: zeros(stateCount)))
        var states = zeros(stateCount * shape.chunkCount)
        x.logDecay.withUnsafeBufferPointer { decay in
            x.state.withUnsafeBufferPointer { state in
                result.gradients.logDecay.withUnsafeMutableBufferPointer { dDecay in
                    let inputs = DeltaRuleInputs(
                        q: pointer(x.q), k: pointer(x.k), v: pointer(x.v), beta: pointer(x.beta),
                        logDecay: decay.isEmpty ? nil : decay.baseAddress)
                    DeltaRule.forward(
                        inputs, state: state.isEmpty ? nil : state.baseAddress, output: &result.output,
                        finalState: &result.finalState, states: &states, shape: shape, threads: pool)
                    DeltaRule.backward(
                        inputs, dOutput: d.output, dFinalState: d.state, states: states, dq: &result.gradients.q,
                        dk: &result.gradients.k,
                        dv: &result.gradients.v, dBeta: &result.gradients.beta,
                        dLogDecay: dDecay.isEmpty ? nil : dDecay.baseAddress, dState: &result.gradients.state,
                        shape: shape, threads: pool)
                }
            }
        }
        withExtendedLifetime(x) {}
        return result
    }

    /// The array's own storage, which outlives the call because the array does.
    static func pointer(_ x: [Float]) -> UnsafePointer<Float> { x.withUnsafeBufferPointer { $0.baseAddress! } }

    /// The recurrence, one step after the other.
    static func naive(_ c: Case, _ x: Tensors<Double>) -> (output: [Double], finalState: [Double]) {
        let (K, V, n) = (c.keyWidth, c.valueWidth, c.steps)
        func unit(_ x: ArraySlice<Double>) -> [Double] {
            let rstd = 1 / (x.reduce(1e-6) { $0 + $1 * $1 }).squareRoot()
            return x.map { $0 * rstd }
        }
        var output = [Double](repeating: 0, count: c.batch * c.tokens * c.valueHeads * V)
        var finalState = [Double](repeating: 0, count: c.batch * c.valueHeads * K * V)
        for b in 0..<c.batch {
            for h in 0..<c.valueHeads {
                let keyHead = h * c.keyHeads / c.valueHeads, start = (b * c.valueHeads + h) * K * V
                var S = x.state.isEmpty ? [Double](repeating: 0, count: K * V) : Array(x.state[start..<start + K * V])
                for t in 0..<c.tokens {
                    let token = b * c.tokens + t
                    if !x.logDecay.isEmpty {
                        let decay = exp(x.logDecay[token * c.valueHeads + h])
                        for i in S.indices { S[i] *= decay }
                    }
                    for step in 0..<n {
                        let row = token * n + step
                        let at = (row * c.keyHeads + keyHead) * K
                        let k = unit(x.k[at..<at + K]), beta = x.beta[row * c.valueHeads + h]
                        for j in 0..<V {
                            var error = x.v[(row * c.valueHeads + h) * V + j]
                            for i in 0..<K { error -= k[i] * S[i * V + j] }
                            for i in 0..<K { S[i * V + j] += k[i] * beta * error }
                        }
                    }
                    let at = (token * c.keyHeads + keyHead) * K, q = unit(x.q[at..<at + K])
                    for j in 0..<V {
                        var sum = 0.0
                        for i in 0..<K { sum += q[i] * S[i * V + j] }
                        output[(token * c.valueHeads + h) * V + j] = sum / Double(K).squareRoot()
                    }
                }
                finalState.replaceSubrange(start..<start + K * V, with: S)
            }
        }
        return (output, finalState)
    }

    static func inDouble(_ x: Tensors<Float>) -> Tensors<Double> {
        func double(_ x: [Float]) -> [Double] { x.map(Double.init) }
        return Tensors(
            q: double(x.q), k: double(x.k), v: double(x.v), beta: double(x.beta), logDecay: double(x.logDecay),
            state: double(x.state))
    }

    @Test(arguments: cases) func matchesTheRecurrence(_ c: Case) {
        let x = Self.inputs(c)
        let got = Self.run(c, x, pool: onePool), reference = Self.naive(c, Self.inDouble(x))
        #expect(relativeError(got.output, reference.output) < 2e-6)
        #expect(relativeError(got.finalState, reference.finalState) < 2e-6)
    }

    /// Against central differences of the recurrence in Double, along random directions.
    @Test(arguments: cases) func gradientsMatchDifferences(_ c: Case) {
        let x = Self.inputs(c), base = Self.inDouble(x)
        let gradients = Self.run(c, x, pool: onePool).gradients, d = Self.outputGradients(c)
        func loss(_ x: Tensors<Double>) -> Double {
            let y = Self.naive(c, x)
            func inner(_ a: [Double], _ b: [Float]) -> Double { zip(a, b).reduce(0) { $0 + $1.0 * Double($1.1) } }
            return inner(y.output, d.output) + inner(y.finalState, d.state)
        }
        for (index, name) in ["q", "k", "v", "beta", "logDecay", "state"].enumerated() {
            let gradient = gradients[keyPath: gradients.all[index]], path = base.all[index]
            if base[keyPath: path].isEmpty { continue }
            for seed in UInt64(20)..<22 {
                let direction = randomFloats(gradient.count, seed: seed).map(Double.init)
                func moved(_ step: Double) -> Double {
                    var x = base
                    for i in direction.indices { x[keyPath: path][i] += step * direction[i] }
                    return loss(x)
                }
                let h = 1e-4
                let difference = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
                let slope = zip(gradient, direction).reduce(0) { $0 + Double($1.0) * $1.1 }
                let norm = gradient.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot()
                #expect(abs(slope - difference) < 2e-5 * norm, "\(name): \(slope), not \(difference)")
            }
        }
    }

    @Test(arguments: cases) func threadsAndBatchLeaveNoTrace(_ c: Case) {
        let x = Self.inputs(c)
        let one = Self.run(c, x, pool: onePool), two = Self.run(c, x, pool: twoPool)
        expectSameBits(one.output, two.output)
        for path in one.gradients.all { expectSameBits(one.gradients[keyPath: path], two.gradients[keyPath: path]) }
    }

    /// Orthonormal keys written with β = 1 are recalled exactly; β = 0 leaves the state alone; a key written twice with
    /// β = 2 and v = 0 reflects the state and back.
    @Test func knownResults() {
        let c = Case(batch: 1, tokens: 16, keyHeads: 1, valueHeads: 1, decay: nil, startsFromZero: true)
        var x = Self.inputs(c)
        for i in 0..<256 { x.k[i] = i % 17 == 0 ? 1000 : 0 }
        x.q = x.k
        x.beta = [Float](repeating: 1, count: 16)
        let recalled = Self.run(c, x, pool: onePool).output
        #expect(relativeError(recalled, x.v.map { Double($0) / 4 }) < 1e-6)

        var still = Case(tokens: 100)
        still.decay = nil
        x = Self.inputs(still)
        x.beta = zeros(x.beta.count)
        expectSameBits(Self.run(still, x, pool: onePool).finalState, x.state)

        var twice = Case(tokens: 2)
        twice.decay = nil
        x = Self.inputs(twice)
        for b in 0..<2 { for i in 0..<32 { x.k[(2 * b + 1) * 32 + i] = x.k[2 * b * 32 + i] } }
        x.v = zeros(x.v.count)
        x.beta = [Float](repeating: 2, count: x.beta.count)
        #expect(relativeError(Self.run(twice, x, pool: onePool).finalState, x.state.map(Double.init)) < 1e-5)
    }

    /// Equal keys with β = 2 are the worst the system can be, infinite decay forgets everything, and a long product of
    /// decays underflows: nothing may leave the finite numbers.
    @Test func extremes() {
        let c = Case(batch: 1, tokens: 300, keyHeads: 1, valueHeads: 1, keyWidth: 32, valueWidth: 32)
        var x = Self.inputs(c)
        for i in x.k.indices { x.k[i] = x.k[i % 32] * (1 + 1e-3 * Float(i / 32 % 7)) }
        x.beta = [Float](repeating: 2, count: x.beta.count)
        x.logDecay = zeros(300)
        let equalKeys = Self.run(c, x, pool: onePool)
        #expect(relativeError(equalKeys.output, Self.naive(c, Self.inDouble(x)).output) < 1e-3)
        for i in x.logDecay.indices { x.logDecay[i] = [0, -1e-9, -400, -1, -.infinity, -30][i % 6] }
        let gates = Self.run(c, x, pool: onePool)
        #expect(relativeError(gates.output, Self.naive(c, Self.inDouble(x)).output) < 1e-4)
        for result in [equalKeys, gates] {
            #expect(result.gradients.all.allSatisfy { result.gradients[keyPath: $0].allSatisfy(\.isFinite) })
        }
    }
}
