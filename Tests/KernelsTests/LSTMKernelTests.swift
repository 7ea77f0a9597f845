import Foundation
import Kernels
import Testing

/// Sizes of a recurrent test: B batch, T time, H hidden units.
struct RecurrentCase: CustomStringConvertible {
    var batch: Int, time: Int, hidden: Int
    var reversed = false
    var hasState = true

    var description: String { "B \(batch) T \(time) H \(hidden) reversed \(reversed) state \(hasState)" }
    var positions: Int { batch * time }

    /// 300 units are shared out by units, the others by rows.
    static let all: [RecurrentCase] = [
        (1, 1, 1), (2, 5, 7), (3, 4, 63), (9, 6, 100), (1, 3, 130), (3, 3, 300), (20, 2, 300),
    ]
    .flatMap { batch, time, hidden in
        [
            RecurrentCase(batch: batch, time: time, hidden: hidden),
            RecurrentCase(batch: batch, time: time, hidden: hidden, reversed: true, hasState: false),
        ]
    }
}

/// `|a − b|` within `tolerance` of the larger of 1 and the largest `|b|`.
func firstDifference(_ a: [Float], _ b: [Double], tolerance: Double, _ name: String) -> String? {
    let bound = tolerance * max(1, b.map(abs).max() ?? 0)
    for i in b.indices where !(abs(Double(a[i]) - b[i]) <= bound) {
        return "\(name)[\(i)] is \(a[i]); expected \(b[i])"
    }
    return nil
}

func logistic(_ x: Double) -> Double { 1 / (1 + exp(-x)) }

/// Positions `start..<start + length` of `[B, T, width]`.
func timeSlice(_ a: [Float], _ c: RecurrentCase, _ start: Int, _ length: Int, _ width: Int) -> [Float] {
    var part: [Float] = []
    for b in 0..<c.batch {
        let first = (b * c.time + start) * width
        part += a[first..<first + length * width]
    }
    return part
}

func putTimeSlice(_ part: [Float], into a: inout [Float], _ c: RecurrentCase, _ start: Int, _ length: Int, _ width: Int)
{
    for b in 0..<c.batch {
        let (from, to) = (b * length * width, (b * c.time + start) * width)
        for i in 0..<length * width { a[to + i] = part[from + i] }
    }
}

func bits(_ values: [Float]) -> [UInt32] { values.map(\.bitPattern) }

@Suite struct LSTMKernelTests {
    struct Input {
        var pre: [Float], weight: [Float], h0: [Float], c0: [Float], dy: [Float], dhN: [Float], dcN: [Float]

        init(_ c: RecurrentCase) {
            var values = TestValues(UInt64(c.hidden))
            pre = values.array(c.positions * 4 * c.hidden).map { 3 * $0 }
            weight = values.array(4 * c.hidden * c.hidden).map { $0 * 2 / Float(c.hidden).squareRoot() }
            let state = c.batch * c.hidden
            (h0, c0, dhN, dcN) = (values.array(state), values.array(state), values.array(state), values.array(state))
            dy = values.array(c.positions * c.hidden)
        }
    }

    struct Result<T> {
        var gates: [T], cells: [T], y: [T], hN: [T], cN: [T]
        var dGates: [T], dh0: [T], dc0: [T]
    }

    /// `chunks`: lengths along time, in the order in which they are run.
    static func run(
        _ c: RecurrentCase, _ input: Input, _ isa: InstructionSet, _ threads: ThreadPool, chunks: [Int]? = nil
    ) -> Result<Float> {
        let (B, T, H) = (c.batch, c.time, c.hidden)
        let weights = RecurrentWeights(
            .gateMajor(gates: 4, heads: 1, outputs: H, inputs: H), instructionSet: isa, threads: threads)
        weights.packForForward(input.weight, threads: threads)
        weights.packForBackward(input.weight, threads: threads)
        func slice(_ a: [Float], _ start: Int, _ length: Int, _ width: Int) -> [Float] {
            timeSlice(a, c, start, length, width)
        }
        func put(_ part: [Float], _ a: inout [Float], _ start: Int, _ length: Int, _ width: Int) {
            putTimeSlice(part, into: &a, c, start, length, width)
        }
        func zeros(_ count: Int) -> [Float] { [Float](repeating: 0, count: count) }
        var result = Result<Float>(
            gates: zeros(B * T * 4 * H), cells: zeros(B * T * H), y: zeros(B * T * H), hN: zeros(B * H),
            cN: zeros(B * H),
            dGates: zeros(B * T * 4 * H), dh0: zeros(B * H), dc0: zeros(B * H))
        let lengths = chunks ?? [T]
        var starts: [Int] = []
        var done = 0
        for length in lengths {
            starts.append(c.reversed ? T - done - length : done)
            done += length
        }
        var carries: [(h: [Float], c: [Float])] = []
        var (h, cell) = (input.h0, input.c0)
        for (chunk, (start, length)) in zip(starts, lengths).enumerated() {
            carries.append((h, cell))
            var gates = slice(input.pre, start, length, 4 * H)
            var (cells, y) = (zeros(B * length * H), zeros(B * length * H))
            let without = chunk == 0 && !c.hasState
            let (h0, c0): ([Float]?, [Float]?) = without ? (nil, nil) : (h, cell)
            LSTMKernel.forward(
                batch: B, time: length, hidden: H, gates: &gates, weights: weights, h0: h0, c0: c0, cells: &cells,
                y: &y, hN: &h, cN: &cell, reversed: c.reversed,
                threads: threads)
            put(gates, &result.gates, start, length, 4 * H)
            put(cells, &result.cells, start, length, H)
            put(y, &result.y, start, length, H)
        }
        (result.hN, result.cN) = (h, cell)
        var (dh, dc) = (input.dhN, input.dcN)
        for chunk in lengths.indices.reversed() {
            let (start, length) = (starts[chunk], lengths[chunk])
            var gates = slice(result.gates, start, length, 4 * H)
            let without = chunk == 0 && !c.hasState
            let (cells, dy) = (slice(result.cells, start, length, H), slice(input.dy, start, length, H))
            let (dhN, dcN) = (dh, dc)
            let c0: [Float]? = without ? nil : carries[chunk].c
            LSTMKernel.backward(
                batch: B, time: length, hidden: H, gates: &gates, weights: weights, cells: cells,
                c0: c0, dy: dy, dhN: dhN, dcN: dcN, dh0: &dh, dc0: &dc, reversed: c.reversed,
                threads: threads)
            put(gates, &result.dGates, start, length, 4 * H)
        }
        (result.dh0, result.dc0) = (dh, dc)
        return result
    }

    /// The recurrence and its gradient as the equations read, in Double.
    static func reference(_ c: RecurrentCase, _ input: Input) -> Result<Double> {
        let (B, T, H) = (c.batch, c.time, c.hidden)
        func zeros(_ count: Int) -> [Double] { [Double](repeating: 0, count: count) }
        var r = Result<Double>(
            gates: zeros(B * T * 4 * H), cells: zeros(B * T * H), y: zeros(B * T * H), hN: zeros(B * H),
            cN: zeros(B * H),
            dGates: zeros(B * T * 4 * H), dh0: zeros(B * H), dc0: zeros(B * H))
        let weight = input.weight.map(Double.init)
        let order = c.reversed ? Array((0..<T).reversed()) : Array(0..<T)
        for b in 0..<B {
            var h = c.hasState ? input.h0[b * H..<(b + 1) * H].map(Double.init) : zeros(H)
            var cell = c.hasState ? input.c0[b * H..<(b + 1) * H].map(Double.init) : zeros(H)
            var before: [[Double]] = []
            for t in order {
                before.append(cell)
                let at = b * T + t
                var a = input.pre[at * 4 * H..<(at + 1) * 4 * H].map(Double.init)
                for row in 0..<4 * H { for j in 0..<H { a[row] += weight[row * H + j] * h[j] } }
                for j in 0..<H {
                    let (i, f, g, o) = (logistic(a[j]), logistic(a[H + j]), tanh(a[2 * H + j]), logistic(a[3 * H + j]))
                    cell[j] = f * cell[j] + i * g
                    h[j] = o * tanh(cell[j])
                    for (gate, value) in [i, f, g, o].enumerated() { r.gates[(at * 4 + gate) * H + j] = value }
                    r.cells[at * H + j] = cell[j]
                    r.y[at * H + j] = h[j]
                }
            }
            for j in 0..<H { (r.hN[b * H + j], r.cN[b * H + j]) = (h[j], cell[j]) }
            var dh = input.dhN[b * H..<(b + 1) * H].map(Double.init)
            var dc = input.dcN[b * H..<(b + 1) * H].map(Double.init)
            for (step, t) in order.enumerated().reversed() {
                let at = b * T + t
                for j in 0..<H {
                    let (i, f) = (r.gates[at * 4 * H + j], r.gates[(at * 4 + 1) * H + j])
                    let (g, o) = (r.gates[(at * 4 + 2) * H + j], r.gates[(at * 4 + 3) * H + j])
                    dh[j] += Double(input.dy[at * H + j])
                    let th = tanh(r.cells[at * H + j])
                    dc[j] += dh[j] * o * (1 - th * th)
                    r.dGates[at * 4 * H + j] = dc[j] * g * i * (1 - i)
                    r.dGates[(at * 4 + 1) * H + j] = dc[j] * before[step][j] * f * (1 - f)
                    r.dGates[(at * 4 + 2) * H + j] = dc[j] * i * (1 - g * g)
                    r.dGates[(at * 4 + 3) * H + j] = dh[j] * th * o * (1 - o)
                    dc[j] *= f
                }
                dh = zeros(H)
                for row in 0..<4 * H { for j in 0..<H { dh[j] += r.dGates[at * 4 * H + row] * weight[row * H + j] } }
            }
            for j in 0..<H { (r.dh0[b * H + j], r.dc0[b * H + j]) = (dh[j], dc[j]) }
        }
        return r
    }

    @Test(arguments: RecurrentCase.all)
    func agreesWithTheEquationsInDouble(_ c: RecurrentCase) {
        let input = Input(c)
        let expected = LSTMKernelTests.reference(c, input)
        for isa in supportedSets {
            let r = LSTMKernelTests.run(c, input, isa, ThreadPool(threadCount: 1))
            for difference in [
                firstDifference(r.gates, expected.gates, tolerance: 2e-6, "gates"),
                firstDifference(r.cells, expected.cells, tolerance: 4e-6, "cells"),
                firstDifference(r.y, expected.y, tolerance: 4e-6, "y"),
                firstDifference(r.hN, expected.hN, tolerance: 4e-6, "hN"),
                firstDifference(r.cN, expected.cN, tolerance: 4e-6, "cN"),
                firstDifference(r.dGates, expected.dGates, tolerance: 1e-5, "dGates"),
                firstDifference(r.dh0, expected.dh0, tolerance: 1e-5, "dh0"),
                firstDifference(r.dc0, expected.dc0, tolerance: 1e-5, "dc0"),
            ] {
                if let difference { Issue.record("\(isa), \(c): \(difference)") }
            }
        }
    }

    @Test(arguments: RecurrentCase.all)
    func threadsAndChunksAreInvisible(_ c: RecurrentCase) {
        let input = Input(c)
        for isa in supportedSets {
            let whole = LSTMKernelTests.run(c, input, isa, ThreadPool(threadCount: 1))
            var runs = [2, 3].map { LSTMKernelTests.run(c, input, isa, ThreadPool(threadCount: $0)) }
            let threads = ThreadPool(threadCount: 2)
            runs.append(LSTMKernelTests.run(c, input, isa, threads, chunks: [Int](repeating: 1, count: c.time)))
            if c.time > 2 { runs.append(LSTMKernelTests.run(c, input, isa, threads, chunks: [1, c.time - 1])) }
            for (index, r) in runs.enumerated() {
                for (a, b) in [
                    (r.gates, whole.gates), (r.cells, whole.cells), (r.y, whole.y), (r.hN, whole.hN), (r.cN, whole.cN),
                    (r.dGates, whole.dGates), (r.dh0, whole.dh0), (r.dc0, whole.dc0),
                ] {
                    #expect(bits(a) == bits(b), "\(isa), \(c), run \(index)")
                }
            }
        }
    }

    @Test func rowsAreIndependent() {
        let many = RecurrentCase(batch: 9, time: 4, hidden: 70)
        let input = Input(many)
        let whole = LSTMKernelTests.run(many, input, KernelVariant.current.instructionSet, ThreadPool(threadCount: 1))
        let one = RecurrentCase(batch: 1, time: 4, hidden: 70)
        for row in [0, 5, 8] {
            var alone = input
            func cut(_ a: [Float]) -> [Float] { Array(a[a.count / 9 * row..<a.count / 9 * (row + 1)]) }
            (alone.pre, alone.h0, alone.c0, alone.dy) = (cut(input.pre), cut(input.h0), cut(input.c0), cut(input.dy))
            (alone.dhN, alone.dcN) = (cut(input.dhN), cut(input.dcN))
            let r = LSTMKernelTests.run(one, alone, KernelVariant.current.instructionSet, ThreadPool(threadCount: 1))
            #expect(bits(r.y) == bits(cut(whole.y)))
            #expect(bits(r.dGates) == bits(cut(whole.dGates)))
        }
    }

    @Test func saturatedAndInvalidInputs() {
        let c = RecurrentCase(batch: 1, time: 1, hidden: 40, hasState: false)
        var input = Input(c)
        for j in 0..<40 { for gate in 0..<4 { input.pre[gate * 40 + j] = j % 2 == 0 ? .infinity : -.infinity } }
        input.pre[2 * 40 + 5] = .nan
        for isa in supportedSets {
            let r = LSTMKernelTests.run(c, input, isa, ThreadPool(threadCount: 1))
            for j in 0..<40 where j != 5 {
                for gate in 0..<4 { #expect(r.gates[gate * 40 + j] == (j % 2 == 0 ? 1 : gate == 2 ? -1 : 0)) }
            }
            #expect(r.gates[2 * 40 + 5].isNaN && r.y[5].isNaN)
        }
    }

    @Test func previousStatesShiftByOneStep() {
        let (B, T, H) = (2, 3, 5)
        var values = TestValues(3)
        let (y, h0) = (values.array(B * T * H), values.array(B * H))
        let threads = ThreadPool(threadCount: 1)
        for reversed in [false, true] {
            var previous = [Float](repeating: -1, count: B * T * H)
            RecurrentSequence.previousStates(
                y, h0: h0, batch: B, time: T, hidden: H, reversed: reversed, into: &previous, threads: threads)
            for b in 0..<B {
                for t in 0..<T {
                    let source = reversed ? t + 1 : t - 1
                    for j in 0..<H {
                        let expected = source < 0 || source == T ? h0[b * H + j] : y[(b * T + source) * H + j]
                        #expect(previous[(b * T + t) * H + j] == expected)
                    }
                }
            }
        }
    }
}
