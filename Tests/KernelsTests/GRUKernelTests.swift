import Foundation
import Kernels
import Testing

@Suite struct GRUKernelTests {
    struct Input {
        var pre: [Float], weight: [Float], biasN: [Float], h0: [Float], dy: [Float], dhN: [Float]

        init(_ c: RecurrentCase) {
            var values = TestValues(UInt64(c.hidden + 1))
            pre = values.array(c.positions * 3 * c.hidden).map { 3 * $0 }
            weight = values.array(3 * c.hidden * c.hidden).map { $0 * 2 / Float(c.hidden).squareRoot() }
            (biasN, h0) = (values.array(c.hidden), values.array(c.batch * c.hidden))
            (dy, dhN) = (values.array(c.positions * c.hidden), values.array(c.batch * c.hidden))
        }
    }

    struct Result<T> {
        var gates: [T], q: [T], y: [T], hN: [T]
        var dGates: [T], dq: [T], dh0: [T]

        init(_ c: RecurrentCase, zero: T) {
            func zeros(_ count: Int) -> [T] { [T](repeating: zero, count: count) }
            let size = c.positions * c.hidden
            (gates, dGates, q, dq, y) = (zeros(3 * size), zeros(3 * size), zeros(size), zeros(size), zeros(size))
            (hN, dh0) = (zeros(c.batch * c.hidden), zeros(c.batch * c.hidden))
        }
    }

    /// `chunks`: lengths along time, in the order in which they are run.
    static func run(
        _ c: RecurrentCase, _ input: Input, _ isa: InstructionSet, _ threads: ThreadPool, chunks: [Int]? = nil
    ) -> Result<Float> {
        let (B, T, H) = (c.batch, c.time, c.hidden)
        let weights = RecurrentWeights(
            .gateMajor(gates: 3, heads: 1, outputs: H, inputs: H), instructionSet: isa, threads: threads)
        weights.packForForward(input.weight, threads: threads)
        weights.packForBackward(input.weight, threads: threads)
        var result = Result<Float>(c, zero: 0)
        let lengths = chunks ?? [T]
        var (starts, done): ([Int], Int) = ([], 0)
        for length in lengths {
            starts.append(c.reversed ? T - done - length : done)
            done += length
        }
        var (carries, h): ([[Float]?], [Float]) = ([], input.h0)
        for (chunk, (start, length)) in zip(starts, lengths).enumerated() {
            let h0: [Float]? = chunk == 0 && !c.hasState ? nil : h
            carries.append(h0)
            var gates = timeSlice(input.pre, c, start, length, 3 * H)
            var q = [Float](repeating: 0, count: B * length * H)
            var y = q
            GRUKernel.forward(
                batch: B, time: length, hidden: H, gates: &gates, biasN: input.biasN, weights: weights, h0: h0, q: &q,
                y: &y,
                hN: &h, reversed: c.reversed, threads: threads)
            putTimeSlice(gates, into: &result.gates, c, start, length, 3 * H)
            putTimeSlice(q, into: &result.q, c, start, length, H)
            putTimeSlice(y, into: &result.y, c, start, length, H)
        }
        result.hN = h
        var dh = input.dhN
        for chunk in lengths.indices.reversed() {
            let (start, length, dhN) = (starts[chunk], lengths[chunk], dh)
            var gates = timeSlice(result.gates, c, start, length, 3 * H)
            var q = timeSlice(result.q, c, start, length, H)
            GRUKernel.backward(
                batch: B, time: length, hidden: H, gates: &gates, q: &q, weights: weights,
                y: timeSlice(result.y, c, start, length, H), h0: carries[chunk],
                dy: timeSlice(input.dy, c, start, length, H),
                dhN: dhN, dh0: &dh, reversed: c.reversed, threads: threads)
            putTimeSlice(gates, into: &result.dGates, c, start, length, 3 * H)
            putTimeSlice(q, into: &result.dq, c, start, length, H)
        }
        result.dh0 = dh
        return result
    }

    /// The recurrence and its gradient as the equations read, in Double.
    static func reference(_ c: RecurrentCase, _ input: Input) -> Result<Double> {
        let (T, H) = (c.time, c.hidden)
        var r = Result<Double>(c, zero: 0)
        let weight = input.weight.map(Double.init)
        let order = c.reversed ? Array((0..<T).reversed()) : Array(0..<T)
        for b in 0..<c.batch {
            let row = b * H..<(b + 1) * H
            var h = c.hasState ? input.h0[row].map(Double.init) : [Double](repeating: 0, count: H)
            var before: [[Double]] = []
            for t in order {
                before.append(h)
                let at = b * T + t
                var gh = [Double](repeating: 0, count: 3 * H)
                for i in 0..<3 * H { for j in 0..<H { gh[i] += weight[i * H + j] * h[j] } }
                for j in 0..<H {
                    let reset = logistic(Double(input.pre[at * 3 * H + j]) + gh[j])
                    let update = logistic(Double(input.pre[(at * 3 + 1) * H + j]) + gh[H + j])
                    let q = gh[2 * H + j] + Double(input.biasN[j])
                    let candidate = tanh(Double(input.pre[(at * 3 + 2) * H + j]) + reset * q)
                    h[j] = (1 - update) * candidate + update * before.last![j]
                    r.gates[at * 3 * H + j] = reset
                    r.gates[(at * 3 + 1) * H + j] = update
                    r.gates[(at * 3 + 2) * H + j] = candidate
                    (r.q[at * H + j], r.y[at * H + j]) = (q, h[j])
                }
            }
            var dh = input.dhN[row].map(Double.init)
            for (step, t) in order.enumerated().reversed() {
                let at = b * T + t
                var dgh = [Double](repeating: 0, count: 3 * H)
                for j in 0..<H {
                    let (reset, update) = (r.gates[at * 3 * H + j], r.gates[(at * 3 + 1) * H + j])
                    let candidate = r.gates[(at * 3 + 2) * H + j]
                    dh[j] += Double(input.dy[at * H + j])
                    let dn = dh[j] * (1 - update) * (1 - candidate * candidate)
                    dgh[j] = dn * r.q[at * H + j] * reset * (1 - reset)
                    dgh[H + j] = dh[j] * (before[step][j] - candidate) * update * (1 - update)
                    dgh[2 * H + j] = dn * reset
                    r.dGates[at * 3 * H + j] = dgh[j]
                    r.dGates[(at * 3 + 1) * H + j] = dgh[H + j]
                    r.dGates[(at * 3 + 2) * H + j] = dn
                    r.dq[at * H + j] = dgh[2 * H + j]
                    dh[j] *= update
                }
                for i in 0..<3 * H { for j in 0..<H { dh[j] += dgh[i] * weight[i * H + j] } }
            }
            for j in 0..<H { (r.hN[b * H + j], r.dh0[b * H + j]) = (h[j], dh[j]) }
        }
        return r
    }

    @Test(arguments: RecurrentCase.all)
    func agreesWithTheEquationsInDouble(_ c: RecurrentCase) {
        let input = Input(c)
        let expected = GRUKernelTests.reference(c, input)
        for isa in supportedSets {
            let r = GRUKernelTests.run(c, input, isa, ThreadPool(threadCount: 1))
            for difference in [
                firstDifference(r.gates, expected.gates, tolerance: 4e-6, "gates"),
                firstDifference(r.q, expected.q, tolerance: 4e-6, "q"),
                firstDifference(r.y, expected.y, tolerance: 4e-6, "y"),
                firstDifference(r.hN, expected.hN, tolerance: 4e-6, "hN"),
                firstDifference(r.dGates, expected.dGates, tolerance: 1e-5, "dGates"),
                firstDifference(r.dq, expected.dq, tolerance: 1e-5, "dq"),
                firstDifference(r.dh0, expected.dh0, tolerance: 1e-5, "dh0"),
            ] {
                if let difference { Issue.record("\(isa), \(c): \(difference)") }
            }
        }
    }

    @Test(arguments: RecurrentCase.all)
    func threadsAndChunksAreInvisible(_ c: RecurrentCase) {
        let input = Input(c)
        for isa in supportedSets {
            let whole = GRUKernelTests.run(c, input, isa, ThreadPool(threadCount: 1))
            var runs = [2, 3].map { GRUKernelTests.run(c, input, isa, ThreadPool(threadCount: $0)) }
            let threads = ThreadPool(threadCount: 2)
            runs.append(GRUKernelTests.run(c, input, isa, threads, chunks: [Int](repeating: 1, count: c.time)))
            if c.time > 2 { runs.append(GRUKernelTests.run(c, input, isa, threads, chunks: [1, c.time - 1])) }
            for (index, r) in runs.enumerated() {
                for (a, b) in [
                    (r.gates, whole.gates), (r.q, whole.q), (r.y, whole.y), (r.hN, whole.hN), (r.dGates, whole.dGates),
                    (r.dq, whole.dq), (r.dh0, whole.dh0),
                ] {
                    #expect(bits(a) == bits(b), "\(isa), \(c), run \(index)")
                }
            }
        }
    }

    @Test func closedUpdateGateCopiesTheCarry() {
        let c = RecurrentCase(batch: 2, time: 3, hidden: 20)
        var input = Input(c)
        for position in 0..<c.positions { for j in 0..<20 { input.pre[(position * 3 + 1) * 20 + j] = .infinity } }
        let r = GRUKernelTests.run(c, input, KernelVariant.current.instructionSet, ThreadPool(threadCount: 1))
        #expect(r.hN == input.h0)
    }
}
