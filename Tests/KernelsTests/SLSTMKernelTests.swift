import Foundation
import Kernels
import Testing

@Suite struct SLSTMKernelTests {
    /// B batch, T time, N heads of S units.
    struct Case: CustomStringConvertible {
        var batch: Int, time: Int, heads: Int, size: Int
        var reversed = false
        var hidden: Int { heads * size }
        var description: String { "B \(batch) T \(time) N \(heads) S \(size) reversed \(reversed)" }
    }

    static let cases = [
        Case(batch: 1, time: 1, heads: 1, size: 1), Case(batch: 2, time: 5, heads: 3, size: 7, reversed: true),
        Case(batch: 3, time: 4, heads: 2, size: 64), Case(batch: 9, time: 3, heads: 2, size: 75),
    ]

    struct Input {
        var pre: [Float], weight: [Float], dy: [Float]
        /// h, c, n, m and the gradients of h, c, n.
        var initial: [[Float]], final: [[Float]]

        init(_ c: Case) {
            var values = TestValues(UInt64(c.hidden))
            pre = values.array(c.batch * c.time * 4 * c.hidden).map { 3 * $0 }
            weight = values.array(4 * c.heads * c.size * c.size).map { $0 * 2 / Float(c.size).squareRoot() }
            dy = values.array(c.batch * c.time * c.hidden)
            let state = c.batch * c.hidden
            initial = (0..<4).map { _ in values.array(state) }
            initial[2] = initial[2].map { 1 + abs($0) }
            final = (0..<3).map { _ in values.array(state) }
        }
    }

    /// `[y, h, c, n, m, dGates, dh, dc, dn]`.
    static func run(_ c: Case, _ input: Input, _ isa: InstructionSet, _ threads: ThreadPool) -> [[Float]] {
        let layout = BlockLayout.headMajor(gates: 4, heads: c.heads, outputs: c.size, inputs: c.size)
        let weights = RecurrentWeights(layout, instructionSet: isa, threads: threads)
        weights.packForForward(input.weight, threads: threads)
        weights.packForBackward(input.weight, threads: threads)
        func zeros(_ count: Int) -> [Float] { [Float](repeating: 0, count: count) }
        let count = c.batch * c.time * c.hidden
        var (gates, y, cells) = (input.pre, zeros(count), zeros(3 * count))
        var states = zeros(4 * c.batch * c.hidden)
        var gradients = zeros(3 * c.batch * c.hidden)
        let size = c.batch * c.hidden
        let initial = input.initial.flatMap(\.self)
        initial.withUnsafeBufferPointer { from in
            states.withUnsafeMutableBufferPointer { to in
                SLSTMKernel.forward(
                    batch: c.batch, time: c.time, hidden: c.hidden, gates: &gates, weights: weights,
                    initial: .init((0..<4).map { from.baseAddress! + $0 * size }), cells: &cells, y: &y,
                    final: .init((0..<4).map { to.baseAddress! + $0 * size }), reversed: c.reversed, threads: threads)
            }
        }
        gradients.withUnsafeMutableBufferPointer { d in
            let d = d.baseAddress!
            SLSTMKernel.backward(
                batch: c.batch, time: c.time, hidden: c.hidden, gates: &gates, weights: weights, cells: cells,
                c0: input.initial[1], n0: input.initial[2], dy: input.dy, dhN: input.final[0], dcN: input.final[1],
                dnN: input.final[2], dh0: d, dc0: d + size, dn0: d + 2 * size, reversed: c.reversed, threads: threads)
        }
        return [y] + (0..<4).map { Array(states[$0 * size..<($0 + 1) * size]) } + [gates]
            + (0..<3).map { Array(gradients[$0 * size..<($0 + 1) * size]) }
    }

    /// The equations and their gradient as they read, in Double; the stabiliser is a constant in the latter.
    static func reference(_ c: Case, _ input: Input) -> [[Double]] {
        let (T, H, S) = (c.time, c.hidden, c.size)
        var y = [Double](repeating: 0, count: c.batch * T * H)
        var dGates = [Double](repeating: 0, count: 4 * y.count)
        var states = input.initial.map { $0.map(Double.init) }
        var gradients = input.final.map { $0.map(Double.init) }
        let order = c.reversed ? Array((0..<T).reversed()) : Array(0..<T)
        func weight(_ head: Int, _ input_: Int, _ gate: Int, _ output: Int) -> Double {
            Double(input.weight[((head * S + input_) * 4 + gate) * S + output])
        }
        func column(_ b: Int, _ t: Int, _ head: Int, _ gate: Int, _ unit: Int) -> Int {
            (b * T + t) * 4 * H + (head * 4 + gate) * S + unit
        }
        for b in 0..<c.batch {
            for head in 0..<c.heads {
                let units = (0..<S).map { b * H + head * S + $0 }
                var steps:
                    [(i: [Double], f: [Double], z: [Double], o: [Double], forget: [Double], c: [Double], n: [Double])] =
                        []
                let start = (c: units.map { states[1][$0] }, n: units.map { states[2][$0] })
                for t in order {
                    let h = units.map { states[0][$0] }
                    var step = (
                        i: [Double](), f: [Double](), z: [Double](), o: [Double](), forget: [Double](), c: [Double](),
                        n: [Double]()
                    )
                    for unit in 0..<S {
                        let a = (0..<4).map { gate in
                            Double(input.pre[column(b, t, head, gate, unit)])
                                + (0..<S).reduce(0) { $0 + h[$1] * weight(head, $1, gate, unit) }
                        }
                        let at = units[unit]
                        let kept = -log1p(exp(-a[1])) + states[3][at]
                        let m = max(a[0], kept)
                        let (i, f) = (exp(a[0] - m), exp(kept - m))
                        states[1][at] = f * states[1][at] + i * tanh(a[2])
                        states[2][at] = f * states[2][at] + i
                        states[3][at] = m
                        states[0][at] = logistic(a[3]) * states[1][at] / states[2][at]
                        y[(b * T + t) * H + head * S + unit] = states[0][at]
                        step.i.append(i)
                        step.f.append(f)
                        step.z.append(tanh(a[2]))
                        step.o.append(logistic(a[3]))
                        step.forget.append(logistic(a[1]))
                        step.c.append(states[1][at])
                        step.n.append(states[2][at])
                    }
                    steps.append(step)
                }
                for (index, t) in order.enumerated().reversed() {
                    let step = steps[index]
                    let before = index == 0 ? start : (c: steps[index - 1].c, n: steps[index - 1].n)
                    for unit in 0..<S {
                        let at = units[unit]
                        let dh = gradients[0][at] + Double(input.dy[(b * T + t) * H + head * S + unit])
                        let ratio = step.c[unit] / step.n[unit]
                        let k = dh * step.o[unit] / step.n[unit]
                        let (dc, dn) = (gradients[1][at] + k, gradients[2][at] - k * ratio)
                        let d = [
                            step.i[unit] * (step.z[unit] * dc + dn),
                            step.f[unit] * (dc * before.c[unit] + dn * before.n[unit]) * (1 - step.forget[unit]),
                            dc * step.i[unit] * (1 - step.z[unit] * step.z[unit]),
                            dh * ratio * step.o[unit] * (1 - step.o[unit]),
                        ]
                        for gate in 0..<4 { dGates[column(b, t, head, gate, unit)] = d[gate] }
                        (gradients[1][at], gradients[2][at]) = (dc * step.f[unit], dn * step.f[unit])
                    }
                    for unit in 0..<S {
                        var sum = 0.0
                        for gate in 0..<4 {
                            for output in 0..<S {
                                sum += dGates[column(b, t, head, gate, output)] * weight(head, unit, gate, output)
                            }
                        }
                        gradients[0][units[unit]] = sum
                    }
                }
            }
        }
        return [y] + states + [dGates] + gradients
    }

    @Test(arguments: cases) func agreesWithTheEquationsInDouble(_ c: Case) {
        let input = Input(c)
        let expected = Self.reference(c, input)
        let names = ["y", "h", "c", "n", "m", "dGates", "dh", "dc", "dn"]
        for isa in supportedSets {
            let got = Self.run(c, input, isa, ThreadPool(threadCount: 1))
            for (i, name) in names.enumerated() {
                if let difference = firstDifference(got[i], expected[i], tolerance: 2e-5, name) {
                    Issue.record("\(isa), \(c): \(difference)")
                }
            }
            for threadCount in [2, 3] {
                let threaded = Self.run(c, input, isa, ThreadPool(threadCount: threadCount))
                for i in names.indices { #expect(bits(threaded[i]) == bits(got[i]), "\(isa), \(c): \(names[i])") }
            }
        }
    }
}
