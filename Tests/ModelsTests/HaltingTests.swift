import Autograd
import Glibc
import Kernels
import Tensors
import TestSupport
import Testing

/// Adaptive computation time and timing signals against their definitions in `Double`.
@Suite struct HaltingTests {
    static let width = 3, steps = 5

    /// Weights, final states and answer of `[R]` probabilities and `[R, D]` states of each step, as the paper's loop has
    /// them.
    static func definition(
        _ p: [[Double]], _ s: [[Double]], _ blend: HaltingBlend
    ) -> (weights: [[Double]], states: [Double], answer: [Double]) {
        let rows = p[0].count
        var sum = [Double](repeating: 0, count: rows), remainder = sum, count = sum
        var runs = [Bool](repeating: true, count: rows), answer = [Double](repeating: 0, count: rows * width)
        var weights: [[Double]] = []
        for t in p.indices {
            var w = [Double](repeating: 0, count: rows)
            for r in 0..<rows where runs[r] {
                count[r] += 1
                if sum[r] + p[t][r] > 0.99 {
                    remainder[r] = 1 - sum[r]
                    runs[r] = false
                    w[r] = remainder[r]
                } else {
                    sum[r] += p[t][r]
                    w[r] = p[t][r]
                }
            }
            for i in answer.indices {
                answer[i] = (blend == .basic ? 1 - w[i / width] : 1) * answer[i] + w[i / width] * s[t][i]
            }
            weights.append(w)
        }
        return (weights, (0..<rows).flatMap { [sum[$0], remainder[$0], count[$0], runs[$0] ? 1 : 0] }, answer)
    }

    /// The steps of a loop as one operation on `p_1 ... p_T, s_1 ... s_T`.
    static func loop(
        _ tape: Tape, _ x: [Variable], _ blend: HaltingBlend
    ) -> (weights: [Variable], state: Variable, answer: Variable) {
        var weights: [Variable] = [], state: Variable?, answer: Variable?
        for t in 0..<steps {
            let (weight, next) = tape.halting(x[t], state: state, threshold: 0.99)
            state = next
            answer = tape.blended(answer, with: x[steps + t], weight: weight, blend)
            weights.append(weight)
        }
        return (weights, state!, answer!)
    }

    /// Gradients of the answer and of the ponder cost, whose remainder falls by every earlier probability.
    @Test(arguments: HaltingBlend.allCases) func loopsOfProbabilities(blend: HaltingBlend) {
        let rows = 40
        let shapes = (0..<2 * Self.steps).map { Shape(rows, $0 < Self.steps ? 1 : Self.width) }
        nonisolated(unsafe) var cost = Double.nan
        let trial = OperationTrial(shapes, scale: 5) { tape, x in
            let p = x.prefix(Self.steps).map { tape.activation(.sigmoid, $0) }
            let (weights, state, answer) = Self.loop(tape, p + x.suffix(Self.steps), blend)
            cost = tape.ponderCost(state, scale: 0.4)
            return [answer, weights[Self.steps - 1]]
        }
        func run(_ x: [[Double]]) -> (weights: [[Double]], states: [Double], answer: [Double]) {
            let p: [[Double]] = x.prefix(Self.steps).map { logits in
                logits.map { (z: Double) -> Double in 1 / (1 + exp(-z)) }
            }
            return Self.definition(p, Array(x.suffix(Self.steps)), blend)
        }
        func ponder(_ x: [[Double]]) -> Double {
            let states: [Double] = run(x).states
            var sum = 0.0
            for row in 0..<rows { sum += states[4 * row + 1] + states[4 * row + 2] }
            return sum / Double(rows)
        }
        // Positions stop at different steps, and some never do.
        let states = run(trial.inputs.map { $0.values.map(Double.init) }).states
        #expect(Set((0..<rows).map { states[4 * $0 + 2] }).count >= 3)
        #expect((0..<rows).contains { states[4 * $0 + 3] == 1 })
        trial.check(value: { 0.4 * ponder($0) }) { x in [run(x).answer, run(x).weights[Self.steps - 1]] }
        #expect(abs(cost - ponder(trial.inputs.map { $0.values.map(Double.init) })) < 1e-6)
    }

    /// `p = 0.3` at every step: four steps with weights 0.3, 0.3, 0.3, 0.1. `p = 1`: one step, whose state is the answer.
    @Test func knownSteps() {
        let context = ComputeContext()
        func constant(_ value: Float, _ shape: Shape) -> Variable {
            let tensor = context.tensor(shape)
            tensor.fill(value)
            return Variable(tensor)
        }
        let cases: [(p: Float, expected: [Float], cost: Double)] = [
            (0.3, [0.3, 0.3, 0.3, 0.1, 0], 4.1), (1, [1, 0, 0, 0, 0], 2),
        ]
        for (p, expected, cost) in cases {
            let x = (0..<Self.steps).map { _ in constant(p, Shape(1, 1)) }
            let s = (0..<Self.steps).map { constant(Float($0 + 1), Shape(1, Self.width)) }
            let tape = Tape(context)
            let (weights, state, answer) = Self.loop(tape, x + s, .accumulated)
            assertClose("weights", expected, weights.flatMap(\.value.array), ratio: 1e-6)
            #expect(abs(tape.ponderCost(state, scale: 1) - cost) < 1e-6)
            var blended: Float = 0
            for (t, weight) in expected.enumerated() { blended += weight * Float(t + 1) }
            assertClose("answer", [Float](repeating: blended, count: Self.width), answer.value.array, ratio: 1e-6)
        }
    }

    @Test(arguments: TimingSignals.Layout.allCases, [2, 6, 40]) func timingSignals(
        layout: TimingSignals.Layout, width: Int
    ) {
        let signals = TimingSignals(width: width, layout: layout)
        func signal(_ index: Int) -> [Double] {
            (0..<width).map { (channel: Int) -> Double in
                let half = width / 2
                let isSine = layout == .t2t ? channel < half : channel % 2 == 0
                let i = Double(layout == .t2t ? channel % half : channel / 2)
                let exponent = layout == .t2t ? i / Double(max(half - 1, 1)) : 2 * i / Double(width)
                let angle = Double(index) * pow(10_000, -exponent)
                return isSine ? sin(angle) : cos(angle)
            }
        }
        let positions: [Int32] = [0, 2, 9, 1, 3, 3]
        OperationTrial([Shape(6, width)]) { tape, x in
            let consecutive = tape.addTimingSignals(x[0], time: 3, positionOffset: 4, signals)
            let routed = tape.addTimingSignals(x[0], time: 3, positionOffset: 0, positions: positions, signals)
            return [consecutive, routed, tape.addTimingSignal(x[0], step: 7, signals)]
        }.check(tolerance: 1e-6) { x in
            let indices = [[4, 5, 6, 4, 5, 6], positions.map(Int.init), [Int](repeating: 7, count: 6)]
            return indices.map { zip(x[0], $0.flatMap(signal)).map { $0 + $1 } }
        }
    }
}
