import Autograd
import Kernels
import Models
import Tensors
import TestSupport
import Testing

/// Squared errors and modulated columns against their definitions.
@Suite struct RegressionTests {
    @Test func meanSquaredError() {
        let target = randomFloats(15, seed: 3)
        let trial = OperationTrial([Shape(5, 3)]) { tape, x in
            let constant = tape.context.tensor(Shape(5, 3))
            constant.copy(from: target, count: 15)
            let value = tape.meanSquaredError(x[0], target: constant, scale: 0.7)
            let expected = zip(x[0].value.array, target).reduce(0.0) { sum, pair in
                let difference = Double(pair.0) - Double(pair.1)
                return sum + difference * difference / 15
            }
            #expect(abs(value - expected) < 1e-6 * expected)
            return []
        }
        trial.check(value: { x in
            0.7 * zip(x[0], target).reduce(0.0) { $0 + ($1.0 - Double($1.1)) * ($1.0 - Double($1.1)) / 15 }
        }) { _ in [] }
    }

    @Test func modulatedColumns() {
        OperationTrial([Shape(4, 3), Shape(1, 9)]) { [$0.modulatedColumns($1[0], by: $1[1], first: 3)] }
            .check { x in [(0..<12).map { x[0][$0] * (1 + x[1][3 + $0 % 3]) }] }
    }
}
