import Autograd
import Glibc
import Kernels
import Tensors
import TestSupport
import Testing

/// The chunk engines against the plain recurrence in `Double`: outputs, final state, and gradients along random
/// directions by differences of the recurrence.
@Suite struct MatrixMemoryTests {
    struct Case: CustomTestStringConvertible, Sendable {
        var time: Int
        /// Heads, and the heads that queries, and keys and decays, are shared by.
        var heads = 2, queryShare = 1, keyShare = 1
        var keyWidth = 16, valueWidth = 16
        /// A decay for every key channel.
        var isPerChannel = false
        var hasInputGate = false, isExponential = false, isNormalized = false, isScaled = false
        /// Size of the logarithms of the gates.
        var gate = 1.0

        var testDescription: String {
            "T\(time)-H\(heads)/\(queryShare)/\(keyShare)-K\(keyWidth)-V\(valueWidth)-gate\(gate)"
                + [("channels", isPerChannel), ("input", hasInputGate), ("exp", isExponential), ("norm", isNormalized)]
                .filter(\.1).map { "-" + $0.0 }.joined()
        }
        var keyHeads: Int { heads / keyShare }
        var decayCount: Int { isPerChannel ? keyHeads * keyWidth : heads }
    }

    static let cases =
        [1, 7, 63, 100, 257].flatMap { [Case(time: $0), Case(time: $0, isPerChannel: true)] } + [
            Case(time: 130, heads: 4, queryShare: 4, keyShare: 4, keyWidth: 33, valueWidth: 7, isScaled: true),
            Case(time: 70, heads: 4, keyShare: 2, keyWidth: 12, valueWidth: 20, hasInputGate: true),
            Case(time: 70, heads: 4, keyShare: 2, keyWidth: 37, valueWidth: 20, isPerChannel: true),
            Case(time: 100, gate: 40), Case(time: 100, isPerChannel: true, gate: 400),
            Case(time: 100, isPerChannel: true, gate: 1e-4),
            Case(time: 100, keyWidth: 10, valueWidth: 18, hasInputGate: true, isExponential: true, isNormalized: true),
            Case(time: 257, hasInputGate: true, isExponential: true, isNormalized: true, gate: 12),
            Case(time: 65, hasInputGate: true, isNormalized: true),
        ]

    static let batch = 2
    /// q, k, v, log-decay, log-input, value scale, initial state.
    static func inputs(_ c: Case) -> [[Float]] {
        let rows = batch * c.time
        let scale = Float(c.gate)
        return [
            randomFloats(rows * c.heads / c.queryShare * c.keyWidth, seed: 1),
            randomFloats(rows * c.keyHeads * c.keyWidth, seed: 2),
            randomFloats(rows * (c.isPerChannel ? c.keyHeads : c.heads) * c.valueWidth, seed: 3),
            randomFloats(rows * c.decayCount, seed: 4).map { -abs($0) * scale },
            randomFloats(rows * c.heads, seed: 5).map { c.isExponential ? $0 * scale : -abs($0) },
            randomFloats(rows * c.heads, seed: 6).map(abs),
            randomFloats(batch * c.heads * c.keyWidth * c.valueWidth, seed: 7),
        ]
    }

    /// Outputs, then final states, of the definition. An exponential memory leaves out the running maximum, which its
    /// outputs do not feel, and which the final state comes multiplied by.
    static func reference(_ x: [[Double]], _ c: Case) -> (output: [Double], state: [Double]) {
        var output: [Double] = [], final: [Double] = []
        let (keys, values) = (c.keyWidth, c.valueWidth)
        for b in 0..<batch {
            var states = (0..<c.heads).map { h in
                (0..<keys * values).map { x[6][((b * c.heads + h) * keys * values) + $0] }
            }
            var norms = [[Double]](repeating: [Double](repeating: 0, count: keys), count: c.heads)
            for row in b * c.time..<(b + 1) * c.time {
                for h in 0..<c.heads {
                    let q = (row * (c.heads / c.queryShare) + h / c.queryShare) * keys
                    let k = (row * c.keyHeads + h / c.keyShare) * keys
                    let v = (c.isPerChannel ? row * c.keyHeads + h / c.keyShare : row * c.heads + h) * values
                    let open = c.hasInputGate ? exp(x[4][row * c.heads + h]) : 1
                    var sigma = 0.0, o = [Double](repeating: 0, count: values)
                    for i in 0..<keys {
                        let forget = exp(x[3][c.isPerChannel ? k + i : row * c.heads + h]), key = open * x[1][k + i]
                        norms[h][i] = forget * norms[h][i] + key
                        sigma += 0.5 * x[0][q + i] * norms[h][i]
                        for j in 0..<values {
                            let value = x[2][v + j] * (c.isScaled ? x[5][row * c.heads + h] : 1)
                            states[h][i * values + j] = forget * states[h][i * values + j] + key * value
                            o[j] += 0.5 * x[0][q + i] * states[h][i * values + j]
                        }
                    }
                    output += c.isNormalized ? o.map { $0 / max(abs(sigma), 1) } : o
                }
            }
            final += states.flatMap { $0 }
        }
        return (output, final)
    }

    struct Outcome {
        var output: [Float], state: [Float]
        var gradients: [[Float]]
    }

    /// What the engine makes of it, with random gradients of outputs and final state.
    static func run(_ c: Case, threadCount: Int, _ dOutput: [Float], _ dState: [Float]) -> Outcome {
        let context = ComputeContext(threadCount: threadCount, pool: StoragePool(fillsWithNaN: true))
        func tensor(_ values: [Float], _ shape: Shape) -> Tensor {
            let result = context.tensor(shape)
            result.copy(from: values, count: values.count)
            return result
        }
        let rows = batch * c.time, values = inputs(c)
        let variables = values.enumerated().map { i, x in
            let shape =
                i == 6 ? Shape(batch, c.heads, c.keyWidth, c.valueWidth) : Shape(rows, x.count / rows)
            return Variable(tensor(x, shape), needsGradient: true)
        }
        let tape = Tape(context)
        let output: Variable, state: Variable
        if c.isPerChannel {
            (output, state) = tape.channelMemory(
                query: variables[0], key: variables[1], value: variables[2], logDecay: variables[3],
                past: variables[6],
                ChannelMemoryShape(
                    batch: batch, time: c.time, headCount: c.heads, keyHeadCount: c.keyHeads, keyWidth: c.keyWidth,
                    valueWidth: c.valueWidth, scale: 0.5))
        } else {
            let result = tape.matrixMemory(
                query: Columns(variables[0]), key: Columns(variables[1]), value: Columns(variables[2]),
                logDecay: variables[3], logInput: c.hasInputGate ? variables[4] : nil,
                valueScale: c.isScaled ? variables[5] : nil, past: MatrixMemoryState(state: variables[6]),
                MatrixMemoryShape(
                    batch: batch, time: c.time, headCount: c.heads, keyWidth: c.keyWidth, valueWidth: c.valueWidth,
                    queryHeadCount: c.heads / c.queryShare, keyHeadCount: c.keyHeads, scale: 0.5,
                    normalizer: c.isNormalized ? .magnitude(floor: 1, epsilon: 0) : .none,
                    isExponential: c.isExponential))
            (output, state) = (result.output, result.state.state!)
        }
        output.accumulate(tensor(dOutput, output.shape), context)
        if !c.isExponential { state.accumulate(tensor(dState, state.shape), context) }
        tape.inputGradients()
        return Outcome(
            output: output.value.array, state: state.value.array,
            gradients: variables.map { $0.takeGradient()?.array ?? [] })
    }

    @Test(arguments: cases) func matchesTheRecurrence(_ c: Case) {
        let x = Self.inputs(c).map { $0.map(Double.init) }
        let expected = Self.reference(x, c)
        let dOutput = randomFloats(expected.output.count, seed: 8), dState = randomFloats(expected.state.count, seed: 9)
        let got = Self.run(c, threadCount: 1, dOutput, dState)
        assertClose("output", expected.output.map(Float.init), got.output, ratio: 1e-5)
        if !c.isExponential { assertClose("state", expected.state.map(Float.init), got.state, ratio: 2e-6) }

        func loss(_ x: [[Double]]) -> Double {
            let (output, state) = Self.reference(x, c)
            let outputs = zip(output, dOutput).reduce(0) { $0 + $1.0 * Double($1.1) }
            return outputs + (c.isExponential ? 0 : zip(state, dState).reduce(0) { $0 + $1.0 * Double($1.1) })
        }
        for (i, gradient) in got.gradients.enumerated() where !gradient.isEmpty {
            let direction = randomFloats(gradient.count, seed: 20 + UInt64(i)).map(Double.init)
            let step = 1e-5
            var up = x, down = x
            for e in direction.indices {
                up[i][e] += step * direction[e]
                down[i][e] -= step * direction[e]
            }
            let difference = (loss(up) - loss(down)) / (2 * step)
            let slope = zip(gradient, direction).reduce(0) { $0 + Double($1.0) * $1.1 }
            let size = gradient.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot()
            if !(abs(slope - difference) <= 2e-4 * size + 1e-6) {
                Issue.record("gradient of input \(i): \(slope) along a direction, differences give \(difference)")
            }
        }
        let two = Self.run(c, threadCount: 2, dOutput, dState)
        assertSameBits(
            "two threads", got.output + got.gradients.flatMap { $0 }, two.output + two.gradients.flatMap { $0 })
    }
}
