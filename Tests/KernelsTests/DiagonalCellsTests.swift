import Kernels
import Testing

@Suite struct DiagonalCellsTests {
    /// A diagonal GRU or LSTM on random pre-activations, longer than a segment of the solver.
    struct Case {
        let batch = 3, time = 150, channels = 21
        var gates: [Float], a: [Float], peepholes: [Float], h: [Float], c: [Float]

        init() {
            var values = TestValues(7)
            gates = values.array(3 * 150 * 3 * 21).map { 2 * $0 }
            (a, peepholes) = (values.array(3 * 21), values.array(2 * 21))
            (h, c) = (values.array(3 * 21), values.array(3 * 21))
        }
    }

    struct Result {
        var gates: [Float], y: [Float], cells: [Float], h: [Float], c: [Float]
        var isSolved = true

        var all: [[Float]] { [gates, y, cells, h, c] }
    }

    static func run(_ newton: NewtonSolver?, isLSTM: Bool, threadCount: Int = 1) -> Result {
        let input = Case()
        let zeros = [Float](repeating: 0, count: input.batch * input.time * input.channels)
        var r = Result(gates: input.gates, y: zeros, cells: zeros, h: input.h, c: input.c)
        let cells = DiagonalCells(
            batch: input.batch, time: input.time, channels: input.channels,
            threads: ThreadPool(threadCount: threadCount))
        switch (newton, isLSTM) {
        case (let newton?, false):
            r.isSolved = cells.gru(solvedBy: newton, gates: &r.gates, a: input.a, y: &r.y, h: &r.h)
        case (nil, false): cells.gru(gates: &r.gates, a: input.a, y: &r.y, h: &r.h)
        case (let newton?, true):
            r.isSolved = cells.lstm(
                solvedBy: newton, gates: &r.gates, a: input.a, peepholes: input.peepholes, cells: &r.cells, y: &r.y,
                h: &r.h, c: &r.c)
        case (nil, true):
            cells.lstm(
                gates: &r.gates, a: input.a, peepholes: input.peepholes, cells: &r.cells, y: &r.y, h: &r.h, c: &r.c)
        }
        return r
    }

    @Test(arguments: [false, true]) func newtonEqualsTheOrderOfTime(isLSTM: Bool) {
        let inOrder = Self.run(nil, isLSTM: isLSTM)
        let solver = NewtonSolver(iterationLimit: 40, tolerance: 1e-6, fallbackTolerance: 0)
        let solved = Self.run(solver, isLSTM: isLSTM)
        #expect(solved.isSolved)
        for (a, b) in zip(solved.all, inOrder.all) {
            #expect(zip(a, b).allSatisfy { abs($0 - $1) <= 1e-5 })
        }
        let threaded = Self.run(solver, isLSTM: isLSTM, threadCount: 3)
        for (a, b) in zip(threaded.all, solved.all) { #expect(bits(a) == bits(b)) }
    }

    @Test(arguments: [false, true]) func whatNewtonLeavesIsRunInOrder(isLSTM: Bool) {
        let inOrder = Self.run(nil, isLSTM: isLSTM)
        let hasty = Self.run(
            NewtonSolver(iterationLimit: 1, tolerance: 0, fallbackTolerance: 1e-9), isLSTM: isLSTM)
        #expect(!hasty.isSolved)
        for (a, b) in zip(hasty.all, inOrder.all) { #expect(bits(a) == bits(b)) }
    }

    /// `k` iterations make the first `k` steps exact, whatever the weights.
    @Test func iterationsReachFurther() {
        let inOrder = Self.run(nil, isLSTM: false)
        let few = Self.run(NewtonSolver(iterationLimit: 5, tolerance: 0, fallbackTolerance: .infinity), isLSTM: false)
        #expect(few.isSolved)
        for row in 0..<3 {
            for i in 0..<5 * 21 { #expect(abs(few.y[row * 150 * 21 + i] - inOrder.y[row * 150 * 21 + i]) <= 1e-6) }
        }
    }

    @Test func invalidInputPropagates() {
        var h = [Float](repeating: 0, count: 20)
        var y = [Float](repeating: 0, count: 40)
        var gates = [Float](repeating: 0.5, count: 120)
        gates[5] = .nan
        let cells = DiagonalCells(batch: 1, time: 2, channels: 20, threads: ThreadPool(threadCount: 1))
        let solver = NewtonSolver(iterationLimit: 3, tolerance: 0, fallbackTolerance: 1)
        let isSolved = cells.gru(solvedBy: solver, gates: &gates, a: [Float](repeating: 0.1, count: 60), y: &y, h: &h)
        #expect(!isSolved && y[5].isNaN && h[5].isNaN && !h[4].isNaN)
    }
}
