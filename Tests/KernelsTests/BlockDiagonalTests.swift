import Kernels
import Testing

@Suite struct BlockDiagonalTests {
    /// A product, and where an element of its weights lies by the layout's description.
    struct Case: CustomStringConvertible {
        var description: String
        var layout: BlockLayout
        var columns: GateColumns
        var sharesInput = false
        /// Element of weight (gate, head, output, input).
        var element: @Sendable (Int, Int, Int, Int) -> Int
    }

    // 3 gates of 2 heads, 5 outputs from 7 inputs.
    static let cases = [
        Case(
            description: "gate-major, head by head",
            layout: .gateMajor(gates: 3, heads: 2, outputs: 5, inputs: 7, gateOrder: [1, 2, 0]),
            columns: GateColumns(gateCount: 3, width: 10, headCount: 2)
        ) { gate, head, output, input in (([1, 2, 0][gate] * 2 + head) * 5 + output) * 7 + input },
        Case(
            description: "head-major, head by head", layout: .headMajor(gates: 3, heads: 2, outputs: 5, inputs: 7),
            columns: GateColumns(gateCount: 3, width: 10, headCount: 2)
        ) { gate, head, output, input in ((head * 7 + input) * 3 + gate) * 5 + output },
        Case(
            description: "head-major, gate by gate", layout: .headMajor(gates: 3, heads: 2, outputs: 5, inputs: 7),
            columns: GateColumns(gateCount: 3, width: 10, headCount: 1)
        ) { gate, head, output, input in ((head * 7 + input) * 3 + gate) * 5 + output },
        Case(
            description: "dense, head by head",
            layout: .gateMajor(gates: 3, heads: 2, outputs: 5, inputs: 7, sharesInput: true),
            columns: GateColumns(gateCount: 3, width: 10, headCount: 2), sharesInput: true
        ) { gate, head, output, input in ((gate * 2 + head) * 5 + output) * 7 + input },
    ]

    @Test(arguments: cases) func agreesWithItsDescription(_ c: Case) {
        let (rows, inputWidth) = (4, c.sharesInput ? 7 : 14)
        var values = TestValues(3)
        let (x, weight, dy) = (values.array(rows * inputWidth), values.array(210), values.array(rows * 30))
        let bias = values.array(30)
        let threads = ThreadPool(threadCount: 1)
        let product = BlockProduct(c.layout, into: c.columns)
        var (y, dx, dWeight) = ([Float](repeating: 0, count: rows * 30), x, weight)
        weight.withUnsafeBufferPointer { w in
            product.multiply(x, rows: rows, [w.baseAddress!], bias: bias, into: &y, threads: threads)
            product.inputGradient(dy, rows: rows, [w.baseAddress!], accumulate: true, into: &dx, threads: threads)
        }
        dWeight.withUnsafeMutableBufferPointer { w in
            product.weightGradient(dy, x, rows: rows, addingTo: [w.baseAddress!], threads: threads)
        }
        var expectedY = (0..<rows * 30).map { Double(bias[$0 % 30]) }
        var (expectedDx, expectedDw) = (x.map(Double.init), weight.map(Double.init))
        for row in 0..<rows {
            for gate in 0..<3 {
                for head in 0..<2 {
                    for output in 0..<5 {
                        let column =
                            c.columns.headCount == 2
                            ? (head * 3 + gate) * 5 + output : gate * 10 + head * 5 + output
                        for input in 0..<7 {
                            let from = row * inputWidth + (c.sharesInput ? 0 : head * 7) + input
                            let w = c.element(gate, head, output, input)
                            expectedY[row * 30 + column] += Double(x[from]) * Double(weight[w])
                            expectedDx[from] += Double(dy[row * 30 + column]) * Double(weight[w])
                            expectedDw[w] += Double(dy[row * 30 + column]) * Double(x[from])
                        }
                    }
                }
            }
        }
        for difference in [
            firstDifference(y, expectedY, tolerance: 1e-6, "y"),
            firstDifference(dx, expectedDx, tolerance: 1e-6, "dx"),
            firstDifference(dWeight, expectedDw, tolerance: 1e-6, "dW"),
        ] {
            if let difference { Issue.record("\(c): \(difference)") }
        }
    }
}
