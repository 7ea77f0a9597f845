import Autograd
import Kernels
import Models
import Pipeline
import Tensors

/// Fits a block-recurrent student to every activation of a frozen teacher (Raptor, arXiv 2512.19941).
///
/// Stage 1 trains each block alone on the layers it stands for: `ρ L_teacher + (1 − ρ) L_auto`, where `L_teacher` predicts
/// each layer's output from the teacher's input to it, and `L_auto` goes on from the teacher's first activation by itself.
/// Stage 2 trains all blocks together, from the embedding to the last layer by themselves. Losses are squared errors, mean
/// over tokens, channels and layers. Embedding and head are the teacher's and stay as they are.
///
/// One rank: what a stage is trained on are the teacher's activations, not what the stage before puts out.
public final class Distiller {
    private let session: Session
    private let teacher: Teacher
    private let configuration: DistillationConfiguration
    private var context: ComputeContext { session.context }
    private let layers: [any HiddenLayer]
    /// The layers that each block stands for.
    public let ranges: [Range<Int>]
    /// Places in the registry of each block's parameters.
    private let parametersOfBlock: [[Int]]

    public struct StepResult: Sendable {
        /// Sum over blocks in stage 1.
        public var loss: Double
        /// Before clipping, over all blocks.
        public var gradientNorm: Double
    }

    /// - Parameter session: of the student, its parameters drawn; embedding and head are overwritten.
    /// - Throws: `RunError.usage` when student and teacher do not fit.
    public init(session: Session, teacher: Teacher, configuration: DistillationConfiguration) throws {
        (self.session, self.teacher, self.configuration) = (session, teacher, configuration)
        let model = session.model
        _ = try Teacher(model: model, context: session.context)
        guard model.hidden.count == teacher.depth else {
            throw RunError.usage(
                "the student unrolls to \(model.hidden.count) layers, the teacher has \(teacher.depth); change 'count' and 'repeat' in model.layers until they are equal"
            )
        }
        for use in model.embedding.uses + model.head.uses {
            let own = use.parameter
            guard let source = teacher.model.registry.parameter(named: own.name), source.shape == own.shape else {
                throw RunError.usage(
                    "'\(own.name)' \(own.shape) of the student is not in the teacher; embedding and head must be alike")
            }
            own.value.copy(from: source.value)
            own.valueChanged()
        }
        layers = model.hidden
        let ranges = Self.ranges(model)
        self.ranges = ranges
        let places = Dictionary(
            uniqueKeysWithValues: model.registry.parameters.enumerated().map { (ObjectIdentifier($1), $0) })
        parametersOfBlock = ranges.map { range in
            Set(range.flatMap { model.hidden[$0].uses }.map { places[ObjectIdentifier($0.parameter)]! })
                .filter { model.registry.parameters[$0].hasGradient }.sorted()
        }
    }

    /// Hidden layers of each shared block with all its applications; any other layer is a block of its own.
    private static func ranges(_ model: Model) -> [Range<Int>] {
        var result: [Range<Int>] = []
        var next = 0
        while next < model.hidden.count {
            let recursion = model.recursions.first { $0.layers.lowerBound == next + 1 }
            result.append(next..<next + (recursion?.layers.count ?? 1))
            next = result.last!.upperBound
        }
        return result
    }

    // MARK: Losses

    /// One forward and backward of a batch, its gradients left in the use-sites.
    ///
    /// - Parameter step: counted from 1.
    /// - Returns: the loss whose gradients they are.
    public func accumulateGradients(_ batch: TokenBatch, step: Int) -> Double {
        var loss = 0.0
        forEachMicroBatch(batch) { inputs, rows in
            let targets = teacher.activations(inputs, batch: rows.count)
            let tape = Tape(context)
            let pass = Pass(
                tape: tape, batch: rows.count, time: batch.time, seed: session.run.seed, step: step,
                samples: rows.map(UInt32.init), isTraining: true)
            let weight = Double(rows.count) / Double(batch.rows)
            loss +=
                step <= configuration.blockSteps
                ? blockLosses(targets, forcing: configuration.forcing(step: step), weight: weight, pass)
                : rollOut(0..<layers.count, targets, weight: weight, pass).reduce(0, +)
            tape.inputGradients()
            tape.weightGradients()
        }
        return loss
    }

    /// Mean squared error of the output of every layer, and the mean square of the teacher's, over `batches`, when the
    /// student runs by itself.
    public func evaluate(_ batches: some Sequence<TokenBatch>) -> [(error: Double, square: Double)] {
        var sums = [(error: Double, square: Double)](repeating: (0, 0), count: layers.count)
        var rowCount = 0
        for batch in batches {
            forEachMicroBatch(batch) { inputs, rows in
                let targets = teacher.activations(inputs, batch: rows.count)
                let pass = Pass(
                    tape: Tape(context, isRecording: false), batch: rows.count, time: batch.time,
                    samples: rows.map(UInt32.init), isTraining: false)
                let errors = rollOut(0..<layers.count, targets, weight: Double(rows.count * layers.count), pass)
                for (layer, error) in errors.enumerated() {
                    let target = targets[layer + 1]
                    let square = Reductions.sumOfSquares(target.pointer, count: target.count, threads: context.threads)
                    sums[layer].error += error
                    sums[layer].square += square / Double(target.count) * Double(rows.count)
                }
                rowCount += rows.count
            }
        }
        return sums.map { ($0.error / Double(rowCount), $0.square / Double(rowCount)) }
    }

    private func forEachMicroBatch(_ batch: TokenBatch, _ body: (_ inputs: [Int32], _ rows: Range<Int>) -> Void) {
        let count = min(batch.rows, session.plan.cut.totalMicroBatchCount)
        let cut = BatchCut(rows: batch.rows, time: batch.time, microBatchCount: count, chunkCount: 1)
        for m in 0..<count {
            let rows = cut.rows(ofMicroBatch: m)
            body(Array(batch.inputs[rows.lowerBound * batch.time..<rows.upperBound * batch.time]), rows)
        }
    }

    private func blockLosses(_ targets: [Tensor], forcing: Double, weight: Double, _ pass: Pass) -> Double {
        var loss = 0.0
        for range in ranges {
            if forcing > 0 {
                let share = forcing * weight / Double(range.count)
                for layer in range {
                    let output = applied(layer, Variable(targets[layer]), pass)
                    loss += share * error(output, targets[layer + 1], share, pass)
                }
            }
            if forcing < 1 {
                loss += rollOut(range, targets, weight: (1 - forcing) * weight, pass).reduce(0, +)
            }
        }
        return loss
    }

    /// The layers of `range` by themselves from the teacher's input to the first.
    ///
    /// - Parameter weight: of the mean over layers.
    /// - Returns: each layer's part of the loss.
    private func rollOut(_ range: Range<Int>, _ targets: [Tensor], weight: Double, _ pass: Pass) -> [Double] {
        let share = weight / Double(range.count)
        var x = Variable(targets[range.lowerBound])
        return range.map { layer in
            x = applied(layer, x, pass)
            return share * error(x, targets[layer + 1], share, pass)
        }
    }

    private func applied(_ layer: Int, _ x: Variable, _ pass: Pass) -> Variable {
        layers[layer].forward(Flow(x), carry: [], pass).0.activation
    }

    private func error(_ x: Variable, _ target: Tensor, _ scale: Double, _ pass: Pass) -> Double {
        pass.tape.meanSquaredError(x, target: target, scale: Float(scale))
    }

    // MARK: Steps

    /// Forward, backward and update of one batch.
    ///
    /// - Throws: `RunError.nonFinite` before any parameter has changed.
    public func trainStep(_ batch: TokenBatch, step: Int, rate: Double) throws -> StepResult {
        let loss = accumulateGradients(batch, step: step)
        let parameters = session.model.registry.parameters
        defer { for parameter in parameters { for use in parameter.uses { use.resetGradient() } } }
        let gradients = try session.tied.reduce(session.pipeline, context)
        // Blocks that are trained alone are clipped alone.
        let groups = step <= configuration.blockSteps ? parametersOfBlock : [parametersOfBlock.flatMap { $0 }]
        let squares = groups.map { group in
            group.reduce(0.0) {
                $0
                    + Reductions.sumOfSquares(
                        gradients[$1]!.pointer, count: gradients[$1]!.count, threads: context.threads)
            }
        }
        let norm = squares.reduce(0, +).squareRoot()
        guard loss.isFinite, norm.isFinite else {
            let culprit = parametersOfBlock.joined().first { index in
                !Reductions.allFinite(
                    gradients[index]!.pointer, count: gradients[index]!.count, threads: context.threads)
            }
            throw RunError.nonFinite(
                step: step, loss: loss, firstParameter: culprit.map { parameters[$0].name }, checkpoint: nil)
        }
        for (group, square) in zip(groups, squares) {
            var scale = 1.0
            if let limit = session.run.optimizer.clipNorm, square.squareRoot() > limit {
                scale = limit / square.squareRoot()
            }
            for index in group {
                session.optimizer.update(
                    parameters[index], gradient: gradients[index]!, scale: scale, rate: rate, step: step)
            }
        }
        return StepResult(loss: loss, gradientNorm: norm)
    }
}
