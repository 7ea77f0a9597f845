import Autograd
import Glibc
import Kernels
import Models
import Tensors
import TestSupport
import Testing

@Suite struct AutogradTests {
    private let context = ComputeContext(pool: StoragePool(fillsWithNaN: true))

    private func tensor(_ values: [Float], _ shape: Shape) -> Tensor {
        let result = context.tensor(shape)
        result.copy(from: values, count: values.count)
        return result
    }

    private func parameter(_ name: String, _ shape: Shape, _ values: [Float]) -> Parameter {
        let parameter = Parameter(name: name, shape: shape, initializer: .constant(0), decays: true)
        parameter.materialize(seed: 1, context)
        parameter.value.copy(from: values, count: values.count)
        return parameter
    }

    // MARK: Variables

    /// The bug this guards against: `add` hands one gradient buffer to both branches, and the first
    /// branch that adds in place would change the other's.
    @Test func aSharedGradientIsCopiedBeforeItIsAddedTo() {
        let x = Variable(tensor([1, 2], Shape(1, 2)), needsGradient: true)
        let y = Variable(tensor([1, 2], Shape(1, 2)), needsGradient: true)
        let shared = tensor([10, 20], Shape(1, 2))
        x.accumulate(shared, context)
        y.accumulate(shared, context)
        x.accumulate(tensor([1, 1], Shape(1, 2)), context)
        #expect(x.gradient!.array == [11, 21])
        #expect(y.gradient!.array == [10, 20])
        #expect(shared.array == [10, 20])
    }

    /// A postponed weight gradient still needs the output gradient that a residual path adds to.
    @Test func residualGradientsDoNotDisturbPostponedOnes() {
        let weight = parameter("w", Shape(2, 2), [1, 2, 3, 4])
        let use = weight.addUse()
        let tape = Tape(context)
        let x = Variable(tensor([1, 0, 0, 1], Shape(2, 2)), needsGradient: true)
        let y = tape.add(x, tape.linear(x, weight: use, bias: nil))
        y.accumulate(tensor([1, 1, 1, 1], Shape(2, 2)), context)
        tape.inputGradients()
        // dx = dy + dy W.
        #expect(x.takeGradient()!.array == [5, 7, 5, 7])
        tape.weightGradients()
        // dW = dyᵀ x, from the dy before dx was formed.
        #expect(use.gradient(context).array == [1, 1, 1, 1])
    }

    @Test func constantsAndEvaluationKeepNothing() {
        let weight = parameter("w", Shape(2, 2), [1, 2, 3, 4])
        let use = weight.addUse()
        let tape = Tape(context, isRecording: false)
        let y = tape.linear(Variable(tensor([1, 1], Shape(1, 2))), weight: use, bias: nil)
        #expect(!y.needsGradient)
        y.accumulate(tensor([1, 1], Shape(1, 2)), context)
        #expect(y.gradient == nil)
        let live = context.pool.liveBytes
        do { _ = tape.linear(tape.linear(y, weight: use, bias: nil), weight: use, bias: nil) }
        #expect(context.pool.liveBytes == live)
    }

    // MARK: Parameters

    @Test func initialValuesDependOnSeedAndNameAlone() {
        func drawn(_ name: String, seed: UInt64, first: Bool) -> [Float] {
            let context = ComputeContext(threadCount: first ? 1 : 2)
            if !first {
                let other = Parameter(
                    name: "other", shape: Shape(7), initializer: .normal(standardDeviation: 1), decays: true)
                other.materialize(seed: seed, context)
            }
            let parameter = Parameter(
                name: name, shape: Shape(30, 10), initializer: .normal(standardDeviation: 0.5), decays: true)
            parameter.materialize(seed: seed, context)
            return parameter.value.array
        }
        assertSameBits(
            "after another, on two threads", drawn("a", seed: 1, first: true), drawn("a", seed: 1, first: false))
        #expect(drawn("a", seed: 1, first: true) != drawn("b", seed: 1, first: true))
        #expect(drawn("a", seed: 1, first: true) != drawn("a", seed: 2, first: true))
        let values = drawn("a", seed: 1, first: true)
        let deviation = (values.reduce(0) { $0 + $1 * $1 } / 300).squareRoot()
        #expect(abs(deviation - 0.5) < 0.1)
    }

    @Test func shiftsReachTheirRowsOnly() {
        let plain = Parameter(name: "b", shape: Shape(9), initializer: .uniform(bound: 0.5), decays: false)
        let shifted = Parameter(
            name: "b", shape: Shape(9), initializer: .shifted(base: .uniform(bound: 0.5), rows: 3..<6, value: 2),
            decays: false)
        plain.materialize(seed: 4, context)
        shifted.materialize(seed: 4, context)
        let expected = plain.value.array.enumerated().map { (3..<6).contains($0) ? $1 + 2 : $1 }
        assertSameBits("shifted", expected, shifted.value.array)
    }

    @Test func tiedUsesHaveSlotsOfTheirOwn() throws {
        let tiny = try TinyModel()
        let embedding = tiny.model.registry.parameter(named: "model.embed_tokens.weight")!
        #expect(embedding.uses.map(\.index) == [0, 1])
        let gradients = tiny.step().gradients[0]
        // Only rows of tokens that occur reach the first slot; the second is the head's and is dense.
        let seen = Set(TinyModel.tokens(seed: 1))
        for row in 0..<37 {
            let isZero = gradients[0][row * 24..<(row + 1) * 24].allSatisfy { $0 == 0 }
            #expect(isZero != seen.contains(Int32(row)))
        }
        #expect(gradients[1].allSatisfy { $0 != 0 })
    }

    // MARK: Re-materialisation

    @Test func rematerialisedBlocksHaveTheSameBits() throws {
        let plain = try TinyModel().step()
        let tiny = try TinyModel()
        for case let block as Block in tiny.model.hidden { block.isRematerialized = true }
        let again = tiny.step()
        #expect(plain.loss == again.loss)
        for (i, parameter) in tiny.model.registry.parameters.enumerated() {
            for (a, b) in zip(plain.gradients[i], again.gradients[i]) { assertSameBits(parameter.name, a, b) }
        }
        let later = try TinyModel().step(2)
        #expect(later.loss != plain.loss, "dropout is keyed by the step")
    }

    @Test func threadsHaveTheSameBits() throws {
        let (one, two) = (try TinyModel().step(), try TinyModel(threadCount: 2).step())
        #expect(one.loss == two.loss)
        #expect(one.gradients == two.gradients)
    }

    // MARK: Cross-entropy

    /// Against logits and softmax in Double. The second size needs several blocks of rows: 64 of 70000
    /// classes at least, so 100 rows make two.
    @Test(arguments: [(rows: 9, vocabulary: 33), (rows: 100, vocabulary: 70_000)])
    func theFusedHeadEqualsTheComposedOne(rows: Int, vocabulary: Int) {
        let width = 5
        #expect((Tape.crossEntropyBlockRows(rows: rows, vocabulary: vocabulary) < rows) == (vocabulary == 70_000))
        let x = randomFloats(rows * width, seed: 1)
        let w = randomFloats(vocabulary * width, seed: 2)
        let b = randomFloats(vocabulary, seed: 3)
        var targets = Philox.words(PhiloxStream(seed: 4), count: rows).map { Int32($0 % UInt32(vocabulary)) }
        targets[2] = -1
        targets[rows - 1] = -100
        let scales = (0..<rows).map { 0.25 + 0.125 * Float($0 % 3) }

        var loss = 0.0
        var dx = [Float](repeating: 0, count: x.count)
        var dw = [Double](repeating: 0, count: w.count)
        var db = [Double](repeating: 0, count: b.count)
        for r in 0..<rows where targets[r] >= 0 {
            let logits = (0..<vocabulary).map { v in
                (0..<width).reduce(Double(b[v])) { $0 + Double(x[r * width + $1]) * Double(w[v * width + $1]) }
            }
            let top = logits.max()!
            let total = logits.reduce(0) { $0 + exp($1 - top) }
            loss += log(total) + top - logits[Int(targets[r])]
            var row = [Double](repeating: 0, count: width)
            for v in 0..<vocabulary {
                let d = (exp(logits[v] - top) / total - (v == Int(targets[r]) ? 1 : 0)) * Double(scales[r])
                db[v] += d
                for i in 0..<width {
                    row[i] += d * Double(w[v * width + i])
                    dw[v * width + i] += d * Double(x[r * width + i])
                }
            }
            for i in 0..<width { dx[r * width + i] = Float(row[i]) }
        }

        let (weight, bias) = (parameter("w", Shape(vocabulary, width), w), parameter("b", Shape(vocabulary), b))
        let (weightUse, biasUse) = (weight.addUse(), bias.addUse())
        func run(isRecording: Bool) -> (Double?, Variable, Tensor) {
            let tape = Tape(context, isRecording: isRecording)
            let input = Variable(tensor(x, Shape(rows, width)), needsGradient: true)
            let logits = context.tensor(Shape(rows, vocabulary))
            let sum = tape.crossEntropy(
                input, targets: targets, weight: weightUse, bias: biasUse, scales: scales, logits: logits)
            #expect((sum.total == nil) == isRecording, "a recording tape computes the loss on the way back")
            tape.inputGradients()
            tape.weightGradients()
            return (sum.total, input, logits)
        }
        let (trained, input, logits) = run(isRecording: true)
        let (evaluated, _, again) = run(isRecording: false)
        #expect(abs(trained! - loss) < 1e-5 * loss)
        #expect(trained == evaluated)
        assertSameBits("logits", logits.array, again.array)
        assertClose("dx", dx, input.takeGradient()!.array, ratio: 1e-5)
        assertClose("dw", dw.map(Float.init), weightUse.gradient(context).array, ratio: 1e-5)
        assertClose("db", db.map(Float.init), biasUse.gradient(context).array, ratio: 1e-5)
    }

    // MARK: Dropout

    private func dropped(
        rows: Range<Int> = 0..<4, positions: Range<Int> = 0..<50, rate: Float = 0.3, step: Int = 1, stream: Int = 7
    ) -> [Float] {
        let count = rows.count * positions.count * 64
        let x = Variable(tensor([Float](repeating: 1, count: count), Shape(rows.count * positions.count, 64)))
        return Tape(context).dropout(
            x, rate: rate, time: positions.count, positionOffset: positions.lowerBound, samples: rows.map(UInt32.init),
            key: DropoutKey(seed: 5, step: step, stream: stream)
        ).value.array
    }

    @Test func dropoutKeepsTheExpectedShareAndScale() {
        let values = dropped()
        let kept = values.filter { $0 != 0 }
        #expect(kept.allSatisfy { abs($0 - 1 / 0.7) < 1e-6 })
        // 12800 draws: five standard deviations are 0.02.
        #expect(abs(Double(kept.count) / Double(values.count) - 0.7) < 0.02)
    }

    /// A mask belongs to (seed, step, stream, sample, position), not to the unit of work it falls in.
    @Test func dropoutMasksDoNotDependOnTheCut() {
        let whole = dropped()
        func part(_ rows: Range<Int>, _ positions: Range<Int>) -> [Float] {
            rows.flatMap { row in whole[(row * 50 + positions.lowerBound) * 64..<(row * 50 + positions.upperBound) * 64]
            }
        }
        for (rows, positions) in [(0..<4, 17..<50), (1..<3, 0..<50), (3..<4, 49..<50)] {
            assertSameBits(
                "rows \(rows), positions \(positions)", part(rows, positions), dropped(rows: rows, positions: positions)
            )
        }
        #expect(dropped(step: 2) != whole)
        #expect(dropped(stream: 8) != whole)
        #expect(Array(whole[..<3200]) != Array(whole[3200..<6400]), "samples have masks of their own")
    }

    @Test func dropoutGradientsPassWhereValuesPass() {
        let tape = Tape(context)
        let x = Variable(tensor([Float](repeating: 1, count: 640), Shape(10, 64)), needsGradient: true)
        let y = tape.dropout(
            x, rate: 0.5, time: 10, positionOffset: 0, samples: [3], key: DropoutKey(seed: 1, step: 1, stream: 1))
        y.accumulate(tensor([Float](repeating: 1, count: 640), Shape(10, 64)), context)
        tape.inputGradients()
        assertSameBits("gradient", y.value.array, x.takeGradient()!.array)
    }
}
