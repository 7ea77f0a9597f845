import Kernels
import Tensors

/// The weight that takes a recurrent cell's state back to its gates: dense, or block-diagonal by heads.
/// Keeps it packed for the time loops until the parameter changes.
public final class RecurrentWeight {
    public let use: ParameterUse
    public let layout: BlockLayout
    private let offset: Int
    /// Whether units are kept from themselves: the diagonal counts as zero and gets no gradient.
    private let ignoresDiagonal: Bool
    private var packed: RecurrentWeights?
    private var forwardVersion = -1
    private var backwardVersion = -1

    /// - Parameters:
    ///   - offset: first element, where one parameter holds the weights of several micro-layers.
    ///   - ignoresDiagonal: only for a single gate without heads.
    public init(_ use: ParameterUse, offset: Int = 0, _ layout: BlockLayout, ignoresDiagonal: Bool = false) {
        require(
            !ignoresDiagonal || layout.gateCount == 1 && layout.headCount == 1,
            "RecurrentWeight '\(use.parameter.name)': a diagonal of several blocks")
        self.use = use
        self.offset = offset
        self.layout = layout
        self.ignoresDiagonal = ignoresDiagonal
    }

    /// Units of all heads.
    var hiddenSize: Int { layout.headCount * layout.inputCount }

    func packedForForward(_ threads: ThreadPool) -> RecurrentWeights {
        let packed = weights(threads)
        if forwardVersion != use.parameter.version {
            withWeight { packed.packForForward($0, threads: threads) }
            forwardVersion = use.parameter.version
        }
        return packed
    }

    func packedForBackward(_ threads: ThreadPool) -> RecurrentWeights {
        let packed = weights(threads)
        if backwardVersion != use.parameter.version {
            withWeight { packed.packForBackward($0, threads: threads) }
            backwardVersion = use.parameter.version
        }
        return packed
    }

    private func withWeight(_ body: (UnsafePointer<Float>) -> Void) {
        let weight = use.value.pointer + offset
        if !ignoresDiagonal { return body(weight) }
        let size = hiddenSize
        var copy = Array(UnsafeBufferPointer(start: weight, count: size * size))
        for i in 0..<size { copy[i * size + i] = 0 }
        copy.withUnsafeBufferPointer { body($0.baseAddress!) }
    }

    /// How the gates of `tensor` lie: those of a head together.
    func columns(of tensor: Tensor) -> GateColumns {
        GateColumns(gateCount: tensor.width / hiddenSize, width: hiddenSize, headCount: layout.headCount)
    }

    /// `dW += dyᵀ x` for `gates`, which are the first of `dy`; all of them by default.
    func addGradient(
        _ dy: Tensor, gates: Range<Int>? = nil, _ x: UnsafePointer<Float>, _ context: ComputeContext
    ) {
        let size = hiddenSize
        let target = use.gradient(context).pointer + offset
        let diagonal = ignoresDiagonal ? (0..<size).map { target[$0 * size + $0] } : []
        BlockProduct(layout, layoutGates: gates, into: columns(of: dy)).weightGradient(
            dy.pointer, x, rows: dy.rows, addingTo: [target], threads: context.threads)
        for (i, value) in diagonal.enumerated() { target[i * size + i] = value }
    }

    private func weights(_ threads: ThreadPool) -> RecurrentWeights {
        if let packed { return packed }
        let made = RecurrentWeights(layout, threads: threads)
        packed = made
        return made
    }
}

/// A chunk that a recurrent cell runs over.
public struct RecurrentRun {
    let batch: Int
    let time: Int
    let isReversed: Bool

    /// - Parameter isReversed: time runs backwards.
    public init(batch: Int, time: Int, isReversed: Bool = false) {
        (self.batch, self.time, self.isReversed) = (batch, time, isReversed)
    }
}

/// Recurrent cells over a chunk, one direction of one layer. `gates`, `[B·T, G·H]`, come from ``Tape/gates(_:biases:_:)``, head by
/// head, with every bias that can be added there, and are overwritten. States are `[B, H]`; nil is zero. Returned are the output
/// `[B·T, H]` and the states after the last step.
extension Tape {
    /// Long short-term memory, torch `nn.LSTM`, gates i, f, g, o.
    public func lstm(
        _ gates: Variable, _ weight: RecurrentWeight, _ run: RecurrentRun, hidden: Variable?, cell: Variable?
    ) -> (output: Variable, hidden: Variable, cell: Variable) {
        let (batch, time, size) = (run.batch, run.time, weight.hiddenSize)
        let (activated, h0, c0) = (gates.value, hidden?.value, cell?.value)
        let y = context.tensor(Shape(batch * time, size))
        let cells = context.tensor(Shape(batch * time, size))
        let finalHidden = context.tensor(Shape(batch, size))
        let finalCell = context.tensor(Shape(batch, size))
        LSTMKernel.forward(
            batch: batch, time: time, hidden: size, gates: activated.pointer, weights: weight.packedForForward(threads),
            h0: h0?.pointer.constant, c0: c0?.pointer.constant, cells: cells.pointer, y: y.pointer,
            hN: finalHidden.pointer, cN: finalCell.pointer, reversed: run.isReversed, threads: threads)

        let output = self.output(y, from: gates, hidden, cell, hasParameters: true)
        let hiddenOut = Variable(finalHidden, needsGradient: output.needsGradient)
        let cellOut = Variable(finalCell, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            let dCell = cellOut.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dHidden != nil || dCell != nil else { return }
            let dHiddenIn = self.context.tensor(Shape(batch, size))
            let dCellIn = self.context.tensor(Shape(batch, size))
            // The activated gates are overwritten by their gradients.
            LSTMKernel.backward(
                batch: batch, time: time, hidden: size, gates: activated.pointer,
                weights: weight.packedForBackward(self.threads), cells: cells.pointer, c0: c0?.pointer.constant,
                dy: dy?.pointer.constant, dhN: dHidden?.pointer.constant, dcN: dCell?.pointer.constant,
                dh0: dHiddenIn.pointer, dc0: dCellIn.pointer, reversed: run.isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            cell?.accumulate(dCellIn, self.context)
            gates.accumulate(activated, self.context)
            self.postponeRecurrentGradient([(activated, 4)], weight, run, y: y, h0: h0)
        }
        return (output, hiddenOut, cellOut)
    }

    /// Gated recurrent unit, torch `nn.GRU`, gates r, z, n.
    ///
    /// - Parameter candidateBias: the recurrent bias of n, `[H]` from an offset on, which sits inside the reset gate's product.
    public func gru(
        _ gates: Variable, _ weight: RecurrentWeight, candidateBias: (use: ParameterUse, offset: Int)?,
        _ run: RecurrentRun, hidden: Variable?
    ) -> (output: Variable, hidden: Variable) {
        let (batch, time, size) = (run.batch, run.time, weight.hiddenSize)
        let (activated, h0) = (gates.value, hidden?.value)
        let products = context.tensor(Shape(batch * time, size))
        let y = context.tensor(Shape(batch * time, size))
        let finalHidden = context.tensor(Shape(batch, size))
        GRUKernel.forward(
            batch: batch, time: time, hidden: size, gates: activated.pointer,
            biasN: candidateBias.map { ($0.use.value.pointer + $0.offset).constant },
            weights: weight.packedForForward(threads), h0: h0?.pointer.constant, q: products.pointer, y: y.pointer,
            hN: finalHidden.pointer, reversed: run.isReversed, threads: threads)

        let output = self.output(y, from: gates, hidden, hasParameters: true)
        let hiddenOut = Variable(finalHidden, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dHidden != nil else { return }
            let dHiddenIn = self.context.tensor(Shape(batch, size))
            // Gates and products are overwritten by their gradients.
            GRUKernel.backward(
                batch: batch, time: time, hidden: size, gates: activated.pointer, q: products.pointer,
                weights: weight.packedForBackward(self.threads), y: y.pointer, h0: h0?.pointer.constant,
                dy: dy?.pointer.constant, dhN: dHidden?.pointer.constant, dh0: dHiddenIn.pointer,
                reversed: run.isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            gates.accumulate(activated, self.context)
            self.postponeRecurrentGradient([(activated, 2), (products, 1)], weight, run, y: y, h0: h0)
            if let candidateBias {
                self.postpone { [context = self.context, threads = self.threads] in
                    Reductions.columnSums(
                        products.pointer, rows: batch * time, columns: size, accumulate: true,
                        into: candidateBias.use.gradient(context).pointer + candidateBias.offset, threads: threads)
                }
            }
        }
        return (output, hiddenOut)
    }

    /// Elman network, torch `nn.RNN`.
    public func elman(
        _ gates: Variable, _ weight: RecurrentWeight, isReLU: Bool, _ run: RecurrentRun, hidden: Variable?
    ) -> (output: Variable, hidden: Variable) {
        let (batch, time, size) = (run.batch, run.time, weight.hiddenSize)
        let (y, h0) = (gates.value, hidden?.value)
        let finalHidden = context.tensor(Shape(batch, size))
        let nonlinearity: ElmanKernel.Nonlinearity = isReLU ? .relu : .tanh
        ElmanKernel.forward(
            batch: batch, time: time, hidden: size, nonlinearity: nonlinearity, preactivations: y.pointer,
            weights: weight.packedForForward(threads), h0: h0?.pointer.constant, y: y.pointer, hN: finalHidden.pointer,
            reversed: run.isReversed, threads: threads)

        let output = self.output(y, from: gates, hidden, hasParameters: true)
        let hiddenOut = Variable(finalHidden, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dHidden != nil else { return }
            let dHiddenIn = self.context.tensor(Shape(batch, size))
            let dGates = self.context.tensor(y.shape)
            ElmanKernel.backward(
                batch: batch, time: time, hidden: size, nonlinearity: nonlinearity,
                weights: weight.packedForBackward(self.threads), y: y.pointer, dy: dy?.pointer.constant,
                dhN: dHidden?.pointer.constant, dPreactivations: dGates.pointer, dh0: dHiddenIn.pointer,
                reversed: run.isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            gates.accumulate(dGates, self.context)
            self.postponeRecurrentGradient([(dGates, 1)], weight, run, y: y, h0: h0)
        }
        return (output, hiddenOut)
    }

    /// sLSTM, gates i, f, z, o; states `[h, c, n, m]`, which come and go together.
    ///
    /// No gradient leaves through m: it scales c and n, and h does not depend on it.
    public func slstm(
        _ gates: Variable, _ weight: RecurrentWeight, _ run: RecurrentRun, states: [Variable]
    ) -> (output: Variable, states: [Variable]) {
        let (batch, time, size) = (run.batch, run.time, weight.hiddenSize)
        let activated = gates.value
        let initial = states.map(\.value)
        func pointer(_ i: Int) -> UnsafePointer<Float>? { initial.isEmpty ? nil : initial[i].pointer.constant }
        let y = context.tensor(Shape(batch * time, size))
        let cells = context.tensor(Shape(batch * time, 3 * size))
        let final = (0..<4).map { _ in context.tensor(Shape(batch, size)) }
        SLSTMKernel.forward(
            batch: batch, time: time, hidden: size, gates: activated.pointer, weights: weight.packedForForward(threads),
            initial: initial.isEmpty ? nil : .init(initial.map { $0.pointer.constant }), cells: cells.pointer,
            y: y.pointer, final: .init(final.map(\.pointer)), reversed: run.isReversed, threads: threads)

        let output = self.output(y, from: gates, hasParameters: true)
        let statesOut = final.map { Variable($0, needsGradient: output.needsGradient) }
        recordRaw {
            let dFinal = statesOut.map { $0.takeGradient() }
            let dy = output.takeGradient()
            guard dy != nil || dFinal[0] != nil || dFinal[1] != nil || dFinal[2] != nil else { return }
            let dInitial = (0..<3).map { _ in self.context.tensor(Shape(batch, size)) }
            // The activated gates are overwritten by their gradients.
            SLSTMKernel.backward(
                batch: batch, time: time, hidden: size, gates: activated.pointer,
                weights: weight.packedForBackward(self.threads), cells: cells.pointer, c0: pointer(1), n0: pointer(2),
                dy: dy?.pointer.constant, dhN: dFinal[0]?.pointer.constant, dcN: dFinal[1]?.pointer.constant,
                dnN: dFinal[2]?.pointer.constant, dh0: dInitial[0].pointer, dc0: dInitial[1].pointer,
                dn0: dInitial[2].pointer, reversed: run.isReversed, threads: self.threads)
            for (state, gradient) in zip(states, dInitial) { state.accumulate(gradient, self.context) }
            gates.accumulate(activated, self.context)
            self.postponeRecurrentGradient([(activated, 4)], weight, run, y: y, h0: initial.first)
        }
        return (output, statesOut)
    }

    /// `dWhh`, later, one product over all steps for every head.
    ///
    /// - Parameter gates: gradients of `h Whhᵀ`: tensors whose first columns are so many of the next gates.
    func postponeRecurrentGradient(
        _ gates: [(tensor: Tensor, count: Int)], _ weight: RecurrentWeight, _ run: RecurrentRun, y: Tensor, h0: Tensor?
    ) {
        postpone { [context, threads] in
            let previous = context.tensor(y.shape)
            RecurrentSequence.previousStates(
                y.pointer, h0: h0?.pointer.constant, batch: run.batch, time: run.time, hidden: weight.hiddenSize,
                reversed: run.isReversed, into: previous.pointer, threads: threads)
            var gate = 0
            for (tensor, count) in gates {
                weight.addGradient(tensor, gates: gate..<gate + count, previous.pointer, context)
                gate += count
            }
        }
    }
}

extension UnsafeMutablePointer<Float> {
    /// The same address for a kernel that only reads, where Swift cannot convert by itself (optionals).
    var constant: UnsafePointer<Float> { UnsafePointer(self) }
}
