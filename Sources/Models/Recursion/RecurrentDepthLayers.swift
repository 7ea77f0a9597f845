import Autograd
import Kernels
import Tensors

/// Sends the embedded input past the iterations of a core, and draws the state that they start from.
final class InitialStateLayer: HiddenLayer {
    let name: String
    let uses: [ParameterUse] = []
    let outputWidth: Int
    private let depth: RecurrentDepth
    private let stream: Int

    init(_ depth: RecurrentDepth, _ builder: LayerBuilder) {
        name = builder.prefix
        outputWidth = builder.inputWidth
        self.depth = depth
        stream = builder.dropoutStream()
    }

    func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        let embedded = flow.activation
        var flow = flow
        flow.activation = Variable(state(pass))
        flow.leaving[.injection] = embedded
        flow.leaving[.constantInjection] = Variable(embedded.value)
        return (flow, [])
    }

    /// `[B·T, D]`: a function of seed, step, sample and position.
    private func state(_ pass: Pass) -> Tensor {
        let context = pass.tape.context
        let shape = Shape(pass.rows, outputWidth)
        guard depth.state == .likeInit else { return context.zeros(shape) }
        let state = context.tensor(shape)
        let count = pass.time * outputWidth
        for (i, sample) in pass.samples.enumerated() {
            Philox.fillTruncatedNormal(
                state.pointer + i * count, deviation: Float(depth.stateDeviation * Double(outputWidth).squareRoot()),
                stream: PhiloxStream(seed: pass.seed, a: sample, b: UInt32(stream), c: UInt32(pass.step)),
                first: pass.positionOffset * outputWidth, count: count, threads: context.threads)
        }
        return state
    }

    func forwardFLOPsPerToken(time: Int) -> Double { 0 }
    var savedPerToken: Int { 2 * outputWidth }
}

/// Begins an iteration: joins the embedded input `e` to the state `s`.
///
/// Parameters, under the group's first layer: `adapter.weight [D, 2D]` with `injection: linear`.
final class InjectionLayer: HiddenLayer {
    let name: String
    let uses: [ParameterUse]
    let outputWidth: Int
    private let lap: DepthLap
    private let adapter: ParameterUse?

    init(_ lap: DepthLap, _ builder: LayerBuilder) {
        name = builder.prefix
        outputWidth = builder.inputWidth
        self.lap = lap
        adapter =
            lap.depth.injection == .linear ? builder.matrix("adapter.weight", outputWidth, 2 * outputWidth) : nil
        uses = builder.uses
    }

    func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        let e = flow.arriving[lap.port]!
        var (result, carryOut) = lap.forward(flow, carry: carry, pass) { flow, _, pass in
            var flow = flow
            let (s, tape) = (flow.activation, pass.tape)
            flow.activation =
                adapter.map { tape.linear(tape.concatenateColumns(s, e), weight: $0, bias: nil) } ?? tape.add(s, e)
            return (flow, [])
        }
        if lap.handsOn { result.leaving[lap.port] = lap.isForwardOnly ? Variable(e.value) : e }
        return (result, carryOut)
    }

    func forwardFLOPsPerToken(time: Int) -> Double {
        runShare * Double(adapter == nil ? outputWidth : 4 * outputWidth * outputWidth)
    }
    func backwardFLOPsPerToken(time: Int) -> Double { isForwardOnly ? 0 : 2 * forwardFLOPsPerToken(time: time) }
    var savedPerToken: Int { isForwardOnly ? 0 : workPerToken }
    var workPerToken: Int { 3 * outputWidth }
    var runShare: Double { lap.share }
    var isForwardOnly: Bool { lap.isForwardOnly }
}

/// The model's final norm, where it acts on the core's last state.
final class StateNormLayer: HiddenLayer {
    let name: String
    let uses: [ParameterUse]
    let outputWidth: Int
    private let norm: Norm

    /// - Parameter builder: of the prefix `model`.
    init(_ kind: NormKind, _ builder: LayerBuilder) {
        outputWidth = builder.inputWidth
        norm = Norm(kind, name: "norm", width: outputWidth, epsilon: builder.defaults.normEpsilon, builder)
        name = "\(builder.prefix).norm"
        uses = builder.uses
    }

    func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        var flow = flow
        flow.activation = norm(flow.activation, pass.tape)
        return (flow, [])
    }

    func forwardFLOPsPerToken(time: Int) -> Double { 0 }
    var savedPerToken: Int { 2 * outputWidth }
}

extension LayerStack {
    /// A group with `depth`: the initial state, every iteration of the list, the norm.
    ///
    /// In canonical names the blocks count once, whatever the number of iterations.
    func appendRecurrentDepth(
        _ depth: RecurrentDepth, _ block: [ConfigurationReader], finalNorm: NormKind
    ) throws(ConfigurationError) {
        let (firstName, widthIn) = (nextName, width)
        let prefix = "model.layers.\(firstName)"
        var sources: [LayerPort: Int] = [.injection: nextIndex, .constantInjection: nextIndex]
        let stateBuilder = builder(prefix)
        let stream = stateBuilder.dropoutStream()
        append(InitialStateLayer(depth, stateBuilder))
        let first = nextIndex
        for index in 0..<depth.maximum {
            let lap = DepthLap(depth: depth, index: index, stream: stream)
            let sharing = LayerSharing.all(isFirst: index == 0, lap: lap)
            links.append(LayerLink(from: sources[lap.port]!, to: nextIndex, port: lap.port, width: width))
            sources[lap.port] = nextIndex
            append(InjectionLayer(lap, builder(prefix, sharing: sharing)))
            for (j, entry) in block.enumerated() {
                append(try Block(entry, builder("model.layers.\(firstName + j)", sharing: sharing)))
                if width != widthIn {
                    throw entry.error(
                        "mixer", "the core changes the width from \(widthIn) to \(width); every layer must keep it")
                }
            }
        }
        nextName = firstName + block.count
        recursions.append(
            Recursion(
                layers: first..<nextIndex, count: depth.maximum, blockLength: 1 + block.count, sharing: .cycle,
                generated: Set(
                    (0..<depth.maximum).filter {
                        DepthLap(depth: depth, index: $0, stream: stream).runs(of: depth.mean)
                    })))
        if depth.hasFinalNorm, finalNorm != .none {
            append(StateNormLayer(finalNorm, builder("model", sharing: .all(isFirst: !usesFinalNorm))))
            usesFinalNorm = true
        }
    }
}
