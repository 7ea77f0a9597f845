import Autograd
import Communication
import Kernels
import Models
import Tensors

/// Times every layer on this machine, for cuts by measured cost (`parallel.partition: measured`).
enum LayerProfile {
    /// Seconds of one forward and backward per layer, the best of three runs after one to warm up.
    ///
    /// Collective: ranks share the layers out between them. Only the cut depends on the figures, and the cut is
    /// invisible in the result.
    /// - Parameters:
    ///   - makeModel: builds the model anew; each layer is measured on a model of its own, so that only one layer's
    ///     parameters exist at a time.
    ///   - rows, time: sequences and tokens of one unit of work.
    static func seconds(
        layerCount: Int, rows: Int, time: Int, threadCount: Int, communicator: any Communicator,
        makeModel: () throws -> Model
    ) throws -> [Double] {
        var seconds = [Double](repeating: 0, count: layerCount)
        for index in 0..<layerCount where index % communicator.size == communicator.rank {
            seconds[index] = measure(try makeModel(), index, rows: rows, time: time, threadCount: threadCount)
        }
        try seconds.withUnsafeMutableBufferPointer { try communicator.sum($0) }
        return seconds
    }

    private static func measure(_ model: Model, _ index: Int, rows: Int, time: Int, threadCount: Int) -> Double {
        let context = ComputeContext(threadCount: threadCount)
        let layer = model.layers[index]
        for use in layer.uses { use.parameter.materialize(seed: 1, context) }
        let tokens = [Int32](repeating: 0, count: rows * time)
        let width = index == 0 ? 1 : model.outputWidth(ofLayer: index - 1)
        let input = context.tensor(Shape(rows * time, width))
        ParameterStream(seed: 1, name: "profile", threads: context.threads).normal(into: input, standardDeviation: 1)

        var best = Double.infinity
        for attempt in 0..<4 {
            let start = ContinuousClock.now
            run(layer, tokens, input, rows: rows, time: time, context)
            if attempt > 0 { best = min(best, (ContinuousClock.now - start).seconds) }
        }
        return best
    }

    private static func run(
        _ layer: any ModelLayer, _ tokens: [Int32], _ input: Tensor, rows: Int, time: Int, _ context: ComputeContext
    ) {
        let tape = Tape(context)
        let pass = Pass(
            tape: tape, batch: rows, time: time, seed: 1, step: 1, samples: (0..<rows).map(UInt32.init),
            isTraining: true)
        let x = Variable(input, needsGradient: true)
        var output: Variable?
        tokens.withUnsafeBufferPointer { ids in
            switch layer {
            case let embedding as EmbeddingLayer: output = embedding.forward(ids.baseAddress!, pass)
            case let block as Block: output = block.forward(x, carry: [], pass).0
            case let head as HeadLayer: _ = head.loss(x, targets: ids.baseAddress!, scale: 1, pass)
            default: fatalError("LayerProfile: layer \(layer.name) has no way to run")
            }
        }
        // The gradient's values do not matter to the time.
        if let output { output.accumulate(output.value, context) }
        tape.inputGradients()
        tape.weightGradients()
    }
}
