import Foundation
import Kernels
import Testing

@Suite struct ElmanKernelTests {
    struct Input {
        var pre: [Float], weight: [Float], h0: [Float], dy: [Float], dhN: [Float]

        init(_ c: RecurrentCase) {
            var values = TestValues(UInt64(c.hidden + 2))
            pre = values.array(c.positions * c.hidden)
            weight = values.array(c.hidden * c.hidden).map { $0 * 2 / Float(c.hidden).squareRoot() }
            (h0, dhN) = (values.array(c.batch * c.hidden), values.array(c.batch * c.hidden))
            dy = values.array(c.positions * c.hidden)
        }
    }

    struct Result<T> {
        var y: [T], hN: [T], dPre: [T], dh0: [T]
    }

    /// `chunks`: lengths along time, in the order in which they are run.
    static func run(
        _ c: RecurrentCase, _ input: Input, _ nonlinearity: ElmanKernel.Nonlinearity, _ isa: InstructionSet,
        _ threads: ThreadPool, chunks: [Int]? = nil
    ) -> Result<Float> {
        let (B, T, H) = (c.batch, c.time, c.hidden)
        let weights = RecurrentWeights(
            .gateMajor(gates: 1, heads: 1, outputs: H, inputs: H), instructionSet: isa, threads: threads)
        weights.packForForward(input.weight, threads: threads)
        weights.packForBackward(input.weight, threads: threads)
        let lengths = chunks ?? [T]
        var (starts, done): ([Int], Int) = ([], 0)
        for length in lengths {
            starts.append(c.reversed ? T - done - length : done)
            done += length
        }
        let zeros = [Float](repeating: 0, count: B * T * H)
        var result = Result<Float>(y: zeros, hN: input.h0, dPre: zeros, dh0: input.dhN)
        for (chunk, (start, length)) in zip(starts, lengths).enumerated() {
            let h0: [Float]? = chunk == 0 && !c.hasState ? nil : result.hN
            var y = [Float](repeating: 0, count: B * length * H)
            ElmanKernel.forward(
                batch: B, time: length, hidden: H, nonlinearity: nonlinearity,
                preactivations: timeSlice(input.pre, c, start, length, H), weights: weights, h0: h0, y: &y,
                hN: &result.hN,
                reversed: c.reversed, threads: threads)
            putTimeSlice(y, into: &result.y, c, start, length, H)
        }
        for chunk in lengths.indices.reversed() {
            let (start, length, dhN) = (starts[chunk], lengths[chunk], result.dh0)
            var dPre = [Float](repeating: 0, count: B * length * H)
            ElmanKernel.backward(
                batch: B, time: length, hidden: H, nonlinearity: nonlinearity, weights: weights,
                y: timeSlice(result.y, c, start, length, H), dy: timeSlice(input.dy, c, start, length, H), dhN: dhN,
                dPreactivations: &dPre, dh0: &result.dh0, reversed: c.reversed, threads: threads)
            putTimeSlice(dPre, into: &result.dPre, c, start, length, H)
        }
        return result
    }

    /// The recurrence and its gradient as the equations read, in Double.
    static func reference(_ c: RecurrentCase, _ input: Input, _ nonlinearity: ElmanKernel.Nonlinearity) -> Result<
        Double
    > {
        let (T, H) = (c.time, c.hidden)
        let weight = input.weight.map(Double.init)
        let order = c.reversed ? Array((0..<T).reversed()) : Array(0..<T)
        let (zeros, state) = (
            [Double](repeating: 0, count: c.positions * H), [Double](repeating: 0, count: c.batch * H)
        )
        var r = Result<Double>(y: zeros, hN: state, dPre: zeros, dh0: state)
        for b in 0..<c.batch {
            let row = b * H..<(b + 1) * H
            var h = c.hasState ? input.h0[row].map(Double.init) : [Double](repeating: 0, count: H)
            for t in order {
                var a = input.pre[(b * T + t) * H..<(b * T + t + 1) * H].map(Double.init)
                for i in 0..<H { for j in 0..<H { a[i] += weight[i * H + j] * h[j] } }
                h = a.map { nonlinearity == .relu ? max(0, $0) : tanh($0) }
                for j in 0..<H { r.y[(b * T + t) * H + j] = h[j] }
            }
            var dh = input.dhN[row].map(Double.init)
            for t in order.reversed() {
                let at = (b * T + t) * H
                for j in 0..<H {
                    let slope = nonlinearity == .relu ? (r.y[at + j] > 0 ? 1 : 0) : 1 - r.y[at + j] * r.y[at + j]
                    r.dPre[at + j] = (dh[j] + Double(input.dy[at + j])) * slope
                }
                dh = [Double](repeating: 0, count: H)
                for i in 0..<H { for j in 0..<H { dh[j] += r.dPre[at + i] * weight[i * H + j] } }
            }
            for j in 0..<H { (r.hN[b * H + j], r.dh0[b * H + j]) = (h[j], dh[j]) }
        }
        return r
    }

    @Test(arguments: RecurrentCase.all, [ElmanKernel.Nonlinearity.tanh, .relu])
    func agreesWithTheEquationsInDouble(_ c: RecurrentCase, _ nonlinearity: ElmanKernel.Nonlinearity) {
        let input = Input(c)
        let expected = ElmanKernelTests.reference(c, input, nonlinearity)
        for isa in supportedSets {
            let r = ElmanKernelTests.run(c, input, nonlinearity, isa, ThreadPool(threadCount: 1))
            for difference in [
                firstDifference(r.y, expected.y, tolerance: 4e-6, "y"),
                firstDifference(r.hN, expected.hN, tolerance: 4e-6, "hN"),
                firstDifference(r.dPre, expected.dPre, tolerance: 1e-5, "dPre"),
                firstDifference(r.dh0, expected.dh0, tolerance: 1e-5, "dh0"),
            ] {
                if let difference { Issue.record("\(isa), \(c), \(nonlinearity): \(difference)") }
            }
        }
    }

    @Test(arguments: RecurrentCase.all, [ElmanKernel.Nonlinearity.tanh, .relu])
    func threadsAndChunksAreInvisible(_ c: RecurrentCase, _ nonlinearity: ElmanKernel.Nonlinearity) {
        var (c, input) = (c, Input(c))
        // 600 units: enough weights to be shared out by units.
        if c.hidden == 300 {
            c.hidden = 600
            input = Input(c)
        }
        for isa in supportedSets {
            let whole = ElmanKernelTests.run(c, input, nonlinearity, isa, ThreadPool(threadCount: 1))
            var runs = [2, 3].map { ElmanKernelTests.run(c, input, nonlinearity, isa, ThreadPool(threadCount: $0)) }
            let steps = [Int](repeating: 1, count: c.time)
            runs.append(ElmanKernelTests.run(c, input, nonlinearity, isa, ThreadPool(threadCount: 2), chunks: steps))
            for r in runs {
                for (a, b) in [(r.y, whole.y), (r.hN, whole.hN), (r.dPre, whole.dPre), (r.dh0, whole.dh0)] {
                    #expect(bits(a) == bits(b), "\(isa), \(c)")
                }
            }
        }
    }

    @Test func invalidInputPropagates() {
        let c = RecurrentCase(batch: 1, time: 2, hidden: 20)
        var input = Input(c)
        input.pre[7] = .nan
        for isa in supportedSets {
            for nonlinearity in [ElmanKernel.Nonlinearity.tanh, .relu] {
                let r = ElmanKernelTests.run(c, input, nonlinearity, isa, ThreadPool(threadCount: 1))
                #expect(r.y[7].isNaN && r.hN.allSatisfy(\.isNaN))
            }
        }
    }
}
