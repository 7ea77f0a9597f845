import Autograd
import Kernels
import Tensors
import TestSupport
import Testing

/// A tape operation on plain arrays, compared with its definition in `Double`.
struct OperationTrial {
    struct Outcome {
        var outputs: [[Float]]
        /// Of the inputs; zeros where nothing has flowed back.
        var gradients: [[Float]]
    }

    let inputs: [(values: [Float], shape: Shape)]
    let operation: (Tape, [Variable]) -> [Variable]

    /// Uniform inputs of these shapes.
    init(_ shapes: [Shape], scale: Float = 1, _ operation: @escaping (Tape, [Variable]) -> [Variable]) {
        inputs = shapes.enumerated().map { (randomFloats($1.count, seed: UInt64(10 + $0), scale: scale), $1) }
        self.operation = operation
    }

    /// - Parameter isSeeded: whether random gradients flow back from the outputs.
    func run(threadCount: Int = 1, isSeeded: Bool = true) -> Outcome {
        let context = ComputeContext(threadCount: threadCount, pool: StoragePool(fillsWithNaN: true))
        func variable(_ values: [Float], _ shape: Shape) -> Variable {
            let tensor = context.tensor(shape)
            tensor.copy(from: values, count: values.count)
            return Variable(tensor, needsGradient: true)
        }
        let variables = inputs.map { variable($0.values, $0.shape) }
        let tape = Tape(context)
        let outputs = operation(tape, variables)
        for (i, output) in outputs.enumerated() where isSeeded {
            let gradient = context.tensor(output.shape)
            gradient.copy(from: Self.seed(i, output.shape.count), count: gradient.count)
            output.accumulate(gradient, context)
        }
        tape.inputGradients()
        tape.weightGradients()
        return Outcome(
            outputs: outputs.map(\.value.array),
            gradients: variables.map { $0.takeGradient()?.array ?? [Float](repeating: 0, count: $0.shape.count) })
    }

    private static func seed(_ index: Int, _ count: Int) -> [Float] { randomFloats(count, seed: UInt64(100 + index)) }

    /// Outputs equal the definition's and gradients its difference quotients, element by element; bits do not depend on
    /// the number of threads.
    /// - Parameter value: a loss that the operation adds to what the outputs' gradients make.
    func check(
        tolerance: Double = 1e-5, sourceLocation: SourceLocation = #_sourceLocation,
        value: ([[Double]]) -> Double = { _ in 0 }, _ definition: ([[Double]]) -> [[Double]]
    ) {
        let outcome = run()
        let x = inputs.map { $0.values.map(Double.init) }
        for (i, reference) in definition(x).enumerated() {
            assertClose(
                "output \(i)", reference.map(Float.init), outcome.outputs[i], ratio: tolerance,
                sourceLocation: sourceLocation)
        }
        func loss(_ x: [[Double]]) -> Double {
            definition(x).enumerated().reduce(value(x)) { sum, output in
                zip(output.element, Self.seed(output.offset, output.element.count))
                    .reduce(sum) { $0 + $1.0 * Double($1.1) }
            }
        }
        for (i, input) in x.enumerated() {
            let quotients = input.indices.map { j in
                var (up, down) = (x, x)
                up[i][j] += 1e-5
                down[i][j] -= 1e-5
                return Float((loss(up) - loss(down)) / 2e-5)
            }
            assertClose(
                "gradient \(i)", quotients, outcome.gradients[i], ratio: tolerance, sourceLocation: sourceLocation)
        }
        let two = run(threadCount: 2)
        for (a, b) in zip(outcome.outputs + outcome.gradients, two.outputs + two.gradients) {
            assertSameBits("two threads", a, b, sourceLocation: sourceLocation)
        }
    }
}
