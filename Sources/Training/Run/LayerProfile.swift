import Autograd
import Communication
import Kernels
import Models
import Tensors

/// Times every layer on this machine, for cuts by measured cost (`parallel.partition: measured`).
enum LayerProfile {
    /// Seconds of one unit of each size in every layer. Layers of equal shape are measured once.
    ///
    /// Collective: ranks share the layers out between them. Only the cut depends on the figures, and the cut is
    /// invisible in the result.
    /// - Parameter makeModel: builds the model anew; each layer is measured on a model of its own, so that only one
    ///   layer's parameters exist at a time.
    static func timings(
        sizes: [UnitSize], threadCount: Int, communicator: any Communicator, makeModel: () throws -> Model
    ) throws -> [UnitSize: [LayerTiming]] {
        // The model owns the parameters that its layers' use-sites refer to, so it must outlive them.
        let model = try Collective.agree(communicator) { try makeModel() }
        var result: [UnitSize: [LayerTiming]] = [:]
        for size in sizes {
            let kinds = model.layers.map { LayerKind($0, time: size.time) }
            let distinct = kinds.indices.filter { kinds[..<$0].firstIndex(of: kinds[$0]) == nil }
            var seconds = [Double](repeating: 0, count: 3 * distinct.count)
            for (place, index) in distinct.enumerated() where place % communicator.size == communicator.rank {
                let timing = measure(try makeModel(), index, size, threadCount: threadCount)
                seconds[3 * place] = timing.forward
                seconds[3 * place + 1] = timing.inputGradient
                seconds[3 * place + 2] = timing.weightGradient
            }
            try seconds.withUnsafeMutableBufferPointer { try communicator.sum($0) }
            result[size] = kinds.map { kind in
                let place = 3 * distinct.firstIndex { kinds[$0] == kind }!
                return LayerTiming(
                    forward: seconds[place], inputGradient: seconds[place + 1], weightGradient: seconds[place + 2])
            }
        }
        return result
    }

    /// What decides how long a layer takes.
    private struct LayerKind: Hashable {
        let type: ObjectIdentifier
        let shapes: [Shape]
        let flops: Double
        let savedPerToken: Int

        init(_ layer: any ModelLayer, time: Int) {
            type = ObjectIdentifier(Swift.type(of: layer))
            shapes = layer.uses.map(\.parameter.shape)
            flops = layer.forwardFLOPsPerToken(time: time)
            savedPerToken = layer.savedPerToken
        }
    }

    /// Seconds after which a layer is measured once only.
    private static let patience = 0.5

    /// Each part the best of up to three runs after one to warm up; a layer that takes long runs less often.
    private static func measure(_ model: Model, _ index: Int, _ size: UnitSize, threadCount: Int) -> LayerTiming {
        let (rows, time) = (size.rows, size.time)
        let context = ComputeContext(threadCount: threadCount)
        let layer = model.layers[index]
        for use in layer.uses { use.parameter.materialize(seed: 1, context) }
        let tokens = [Int32](repeating: 0, count: rows * time)
        func random(_ count: Int, _ width: Int) -> Variable {
            let tensor = context.tensor(Shape(count, width))
            ParameterStream(seed: 1, name: "profile", threads: context.threads)
                .normal(into: tensor, standardDeviation: 1)
            return Variable(tensor, needsGradient: true)
        }
        var input: Flow?
        if index > 0 {
            let before = model.layers[index - 1]
            let active = before.outputTime(time)
            input = Flow(random(rows * active, before.outputWidth))
            if before.routesTokens {
                input!.selection = TokenSelection(
                    rows: (0..<rows * active).map { Int32($0 / active * time + $0 % active * time / active) },
                    batch: rows)
            }
            for link in model.links where link.to == index && link.port != .sum {
                let arrived = random(rows * time, link.width)
                if link.port == .exit { input!.exits.append(arrived) } else { input!.arriving[link.port] = arrived }
            }
        }

        var best = LayerTiming(forward: .infinity, inputGradient: .infinity, weightGradient: .infinity)
        let start = ContinuousClock.now
        for attempt in 0..<4 {
            if attempt > 1, (ContinuousClock.now - start).seconds > patience { break }
            let timing = run(layer, tokens, input, rows: rows, time: time, context)
            guard attempt > 0 else { continue }
            best.forward = min(best.forward, timing.forward)
            best.inputGradient = min(best.inputGradient, timing.inputGradient)
            best.weightGradient = min(best.weightGradient, timing.weightGradient)
        }
        return best.scaled(by: layer.runShare)
    }

    private static func run(
        _ layer: any ModelLayer, _ tokens: [Int32], _ input: Flow?, rows: Int, time: Int, _ context: ComputeContext
    ) -> LayerTiming {
        let tape = Tape(context)
        let pass = Pass(
            tape: tape, batch: rows, time: time, seed: 1, step: 0, samples: (0..<rows).map(UInt32.init),
            isTraining: true, auxiliary: AuxiliaryLosses(scale: 1))
        var outputs: [Variable] = []
        let start = ContinuousClock.now
        tokens.withUnsafeBufferPointer { ids in
            switch layer {
            case let embedding as EmbeddingLayer: outputs = [embedding.forward(ids.baseAddress!, pass)]
            case let layer as any HiddenLayer:
                let flow = layer.forward(input!, carry: [], pass).0
                outputs = [flow.activation] + flow.leaving.values
            case let head as HeadLayer:
                let scales = [Float](repeating: 1, count: pass.rows)
                _ = head.losses(input!, targets: ids.baseAddress!, scales: scales, pass)
            default: fatalError("LayerProfile: layer \(layer.name) has no way to run")
            }
        }
        let forwardEnd = ContinuousClock.now
        // The gradient's values do not matter to the time.
        for output in outputs { output.accumulate(output.value, context) }
        tape.inputGradients()
        let inputGradientEnd = ContinuousClock.now
        tape.weightGradients()
        // Gradients of the inputs are of no use, and would be added to in the next run.
        if let input {
            for variable in [input.activation] + input.exits + input.arriving.values { _ = variable.takeGradient() }
        }
        return LayerTiming(
            forward: (forwardEnd - start).seconds, inputGradient: (inputGradientEnd - forwardEnd).seconds,
            weightGradient: (ContinuousClock.now - inputGradientEnd).seconds)
    }
}
