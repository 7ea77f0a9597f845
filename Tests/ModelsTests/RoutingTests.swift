import Autograd
import Glibc
import Kernels
import Tensors
import TestSupport
import Testing

/// Routing and its auxiliary losses against their definitions in `Double`.
@Suite struct RoutingTests {
    static let width = 5

    // MARK: Rows

    @Test func gatheredRowsMayRepeat() {
        let rows: [Int32] = [3, 0, 3, 6, 6, 6]
        OperationTrial([Shape(7, Self.width)]) { tape, x in [tape.gathered(x[0], rows: rows)] }.check { x in
            [rows.flatMap { x[0][Int($0) * Self.width..<(Int($0) + 1) * Self.width] }]
        }
    }

    /// Rows that fill up get no gradient, and give none to their weights.
    @Test(arguments: [false, true]) func scatteredSum(isWeighted: Bool) {
        let rows: [Int32] = [4, 0, 6, -1]
        OperationTrial([Shape(7, Self.width), Shape(4, Self.width), Shape(4, 1)]) { tape, x in
            [tape.scatteredSum(x[0], adding: x[1], weight: isWeighted ? x[2] : nil, rows: rows)]
        }.check { x in
            var y = x[0]
            for (i, row) in rows.enumerated() where row >= 0 {
                for c in 0..<Self.width {
                    y[Int(row) * Self.width + c] += (isWeighted ? x[2][i] : 1) * x[1][i * Self.width + c]
                }
            }
            return [y]
        }
    }

    /// A gather, a block and a gated scatter: the gradient of the state adds up over both ways.
    @Test func oneRecursion() {
        let rows: [Int32] = [1, 2, 5]
        OperationTrial([Shape(6, Self.width), Shape(6, 1)]) { tape, x in
            let block = tape.activation(.tanh, tape.gathered(x[0], rows: rows))
            let gates = tape.scale(tape.activation(.sigmoid, x[1]), by: 0.1)
            return [tape.scatteredSum(x[0], adding: block, weight: tape.gathered(gates, rows: rows), rows: rows)]
        }.check { x in
            var y = x[0]
            for row in rows.map(Int.init) {
                for i in row * Self.width..<(row + 1) * Self.width {
                    y[i] += 0.1 / (1 + exp(-x[1][row])) * tanh(x[0][i])
                }
            }
            return [y]
        }
    }

    @Test func pickedColumnsOfASoftmax() {
        let columns: [Int32] = [2, 0, 1, 1]
        OperationTrial([Shape(4, 3)], scale: 3) { tape, x in
            [tape.picked(tape.scale(tape.softmax(x[0]), by: 0.7), columns: columns)]
        }.check { x in
            [
                columns.enumerated().map { row, column in
                    let weights = (0..<3).map { exp(x[0][row * 3 + $0]) }
                    return 0.7 * weights[Int(column)] / weights.reduce(0, +)
                }
            ]
        }
    }

    // MARK: Losses

    /// - Parameter definition: of the logits.
    private func checkLoss(
        _ shape: Shape, scale: Float = 4, _ loss: @escaping (Tape, Variable, Float) -> Double,
        _ definition: @escaping ([Double]) -> Double
    ) {
        let factor: Float = 0.3
        nonisolated(unsafe) var value = Double.nan
        let trial = OperationTrial([shape], scale: scale) { tape, x in
            value = loss(tape, x[0], factor)
            return [tape.scale(x[0], by: 2)]
        }
        trial.check(value: { x in Double(factor) * definition(x[0]) }) { x in [x[0].map { 2 * $0 }] }
        let expected = definition(trial.inputs[0].values.map(Double.init))
        #expect(abs(value - expected) < 1e-6 * abs(expected), "\(value), not \(expected)")
        // Nothing else flows back: the loss alone reaches the logits.
        let alone = OperationTrial([shape], scale: scale) { tape, x in
            _ = loss(tape, x[0], factor)
            return []
        }.run().gradients[0]
        #expect(alone.contains { $0 != 0 })
    }

    private static func logSigmoid(_ z: Double) -> Double { -log1p(exp(-z)) }

    @Test func binaryCrossEntropy() {
        let labels = (0..<9).map { $0 % 3 == 0 }
        checkLoss(Shape(9, 1)) {
            $0.binaryCrossEntropy($1, labels: labels, scale: $2)
        } _: { z in
            z.indices.reduce(0) { $0 - Self.logSigmoid(labels[$1] ? z[$1] : -z[$1]) } / 9
        }
    }

    /// The clamped form of other implementations has the wrong slope at 0, and loses large logits.
    @Test func binaryCrossEntropyAtItsEdges() {
        let context = ComputeContext()
        let z = Variable(context.tensor(Shape(3, 1)), needsGradient: true)
        z.value.copy(from: [0, 200, -200], count: 3)
        let tape = Tape(context)
        let value = tape.binaryCrossEntropy(z, labels: [true, false, true], scale: 1)
        tape.inputGradients()
        #expect(abs(value - (log(2) + 400) / 3) < 1e-12)
        assertClose("gradient", [-0.5 / 3, 1 / 3, -1 / 3], z.takeGradient()!.array, ratio: 1e-6)
    }

    @Test func zLosses() {
        checkLoss(Shape(9, 1)) {
            $0.squaredMean($1, scale: $2)
        } _: {
            $0.reduce(0) { $0 + $1 * $1 } / 9
        }
        checkLoss(Shape(6, 3)) {
            $0.logSumExpSquaredMean($1, scale: $2)
        } _: { z in
            (0..<6).reduce(0) { sum, row in
                let value = log((0..<3).reduce(0) { $0 + exp(z[row * 3 + $1]) })
                return sum + value * value / 6
            }
        }
    }

    @Test(arguments: [8, 4]) func balance(groupRows: Int) {
        let choices: [Int32] = [0, 0, 2, 0, 1, 2, 0, 1]
        checkLoss(Shape(8, 3), scale: 1) {
            $0.balanceLoss($1, choices: choices, groupRows: groupRows, scale: $2)
        } _: { gates in
            stride(from: 0, to: 8, by: groupRows).reduce(0) { sum, first in
                let rows = first..<first + groupRows
                return sum
                    + (0..<3).reduce(0) { sum, column in
                        let share = Double(rows.count { choices[$0] == Int32(column) }) / Double(groupRows)
                        let mean = rows.reduce(0) { $0 + gates[$1 * 3 + column] } / Double(groupRows)
                        return sum + mean * 3 * share
                    } * Double(groupRows) / 8
            }
        }
    }

    /// At perfect balance of gates that sum to α the loss is α.
    @Test func balanceOfEqualLoads() {
        let context = ComputeContext()
        let gates = Variable(context.tensor(Shape(6, 3)))
        gates.value.copy(from: (0..<6).flatMap { _ in [0.2, 0.3, 0.2] as [Float] }, count: 18)
        let value = Tape(context).balanceLoss(gates, choices: [0, 1, 2, 2, 1, 0], groupRows: 6, scale: 1)
        #expect(abs(value - 0.7) < 1e-6)
    }

    // MARK: Selection

    @Test func theLargestInOrder() {
        func select(_ scores: [Float], _ count: Int) -> [Int32] {
            scores.withUnsafeBufferPointer { TopK.select($0, count: count) }
        }
        #expect(select([0.5, -1, 3, 0.5, 2], 3) == [0, 2, 4])
        #expect(select([1, 1, 1, 1], 2) == [0, 1])
        #expect(select([-0.0, 0, 1], 2) == [0, 2])
        #expect(select([.nan, 1, .nan, -.infinity], 2) == [0, 1])
        #expect(select([.nan, .nan], 2) == [0, 1])
        #expect(select([1, 2], 0) == [])
        let scores = randomFloats(300, seed: 1).map { ($0 * 20).rounded() }
        let chosen = Set(select(scores, 100).map(Int.init)), lowest = chosen.map { scores[$0] }.min()!
        for i in scores.indices where !chosen.contains(i) {
            #expect(scores[i] < lowest || (scores[i] == lowest && chosen.allSatisfy { scores[$0] > lowest || $0 < i }))
        }
    }
}
