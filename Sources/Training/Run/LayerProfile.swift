import Autograd
import Communication
import Kernels
import Models
import Tensors

/// Times every layer on this machine, for cuts by measured cost (`parallel.partition: measured`).
enum LayerProfile {
    /// Seconds of one unit in every layer, each part the best of three runs after one to warm up.
    ///
    /// Collective: ranks share the layers out between them. Only the cut depends on the figures, and the cut is
    /// invisible in the result.
    /// - Parameters:
    ///   - makeModel: builds the model anew; each layer is measured on a model of its own, so that only one layer's
    ///     parameters exist at a time.
    ///   - rows, time: sequences and tokens of one unit of work.
    static func timings(
        layerCount: Int, rows: Int, time: Int, threadCount: Int, communicator: any Communicator,
        makeModel: () throws -> Model
    ) throws -> [LayerTiming] {
        var seconds = [Double](repeating: 0, count: 3 * layerCount)
        for index in 0..<layerCount where index % communicator.size == communicator.rank {
            let timing = measure(try makeModel(), index, rows: rows, time: time, threadCount: threadCount)
            seconds[3 * index] = timing.forward
            seconds[3 * index + 1] = timing.inputGradient
            seconds[3 * index + 2] = timing.weightGradient
        }
        try seconds.withUnsafeMutableBufferPointer { try communicator.sum($0) }
        return (0..<layerCount).map {
            LayerTiming(
                forward: seconds[3 * $0], inputGradient: seconds[3 * $0 + 1], weightGradient: seconds[3 * $0 + 2])
        }
    }

    private static func measure(_ model: Model, _ index: Int, rows: Int, time: Int, threadCount: Int) -> LayerTiming {
        let context = ComputeContext(threadCount: threadCount)
        let layer = model.layers[index]
        for use in layer.uses { use.parameter.materialize(seed: 1, context) }
        let tokens = [Int32](repeating: 0, count: rows * time)
        let width = index == 0 ? 1 : model.outputWidth(ofLayer: index - 1)
        let input = context.tensor(Shape(rows * time, width))
        ParameterStream(seed: 1, name: "profile", threads: context.threads).normal(into: input, standardDeviation: 1)

        var best = LayerTiming(forward: .infinity, inputGradient: .infinity, weightGradient: .infinity)
        for attempt in 0..<4 {
            let timing = run(layer, tokens, input, rows: rows, time: time, context)
            guard attempt > 0 else { continue }
            best.forward = min(best.forward, timing.forward)
            best.inputGradient = min(best.inputGradient, timing.inputGradient)
            best.weightGradient = min(best.weightGradient, timing.weightGradient)
        }
        return best
    }

    private static func run(
        _ layer: any ModelLayer, _ tokens: [Int32], _ input: Tensor, rows: Int, time: Int, _ context: ComputeContext
    ) -> LayerTiming {
        let tape = Tape(context)
        let pass = Pass(
            tape: tape, batch: rows, time: time, seed: 1, step: 1, samples: (0..<rows).map(UInt32.init),
            isTraining: true)
        let x = Variable(input, needsGradient: true)
        var output: Variable?
        let start = ContinuousClock.now
        tokens.withUnsafeBufferPointer { ids in
            switch layer {
            case let embedding as EmbeddingLayer: output = embedding.forward(ids.baseAddress!, pass)
            case let block as Block: output = block.forward(x, carry: [], pass).0
            case let head as HeadLayer: _ = head.loss(x, targets: ids.baseAddress!, scale: 1, pass)
            default: fatalError("LayerProfile: layer \(layer.name) has no way to run")
            }
        }
        let forwardEnd = ContinuousClock.now
        // The gradient's values do not matter to the time.
        if let output { output.accumulate(output.value, context) }
        tape.inputGradients()
        let inputGradientEnd = ContinuousClock.now
        tape.weightGradients()
        return LayerTiming(
            forward: (forwardEnd - start).seconds, inputGradient: (inputGradientEnd - forwardEnd).seconds,
            weightGradient: (ContinuousClock.now - inputGradientEnd).seconds)
    }
}
