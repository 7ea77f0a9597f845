import Kernels
import Tensors

/// Parameters of one direction of one recurrent layer, `G` gates: `[G·H, in]`, `[G·H, H]`, `[G·H]`, `[G·H]`.
/// Keeps the recurrent weight packed for the time loops until the parameter changes.
public final class RecurrentParameters {
    public let inputWeight, recurrentWeight: ParameterUse
    public let inputBias, recurrentBias: ParameterUse?
    private var packed: RecurrentWeights?
    private var forwardVersion = -1
    private var backwardVersion = -1

    public init(
        inputWeight: ParameterUse, recurrentWeight: ParameterUse, inputBias: ParameterUse?,
        recurrentBias: ParameterUse?
    ) {
        self.inputWeight = inputWeight
        self.recurrentWeight = recurrentWeight
        self.inputBias = inputBias
        self.recurrentBias = recurrentBias
    }

    var hiddenSize: Int { recurrentWeight.shape[1] }

    func packedForForward(_ threads: ThreadPool) -> RecurrentWeights {
        let packed = weights(threads)
        if forwardVersion != recurrentWeight.parameter.version {
            packed.packForForward(recurrentWeight.value.pointer, threads: threads)
            forwardVersion = recurrentWeight.parameter.version
        }
        return packed
    }

    func packedForBackward(_ threads: ThreadPool) -> RecurrentWeights {
        let packed = weights(threads)
        if backwardVersion != recurrentWeight.parameter.version {
            packed.packForBackward(recurrentWeight.value.pointer, threads: threads)
            backwardVersion = recurrentWeight.parameter.version
        }
        return packed
    }

    private func weights(_ threads: ThreadPool) -> RecurrentWeights {
        if let packed { return packed }
        let made = RecurrentWeights(
            hidden: hiddenSize, gateCount: recurrentWeight.shape[0] / hiddenSize, threads: threads)
        packed = made
        return made
    }
}

extension Tape {
    /// One direction of one LSTM layer over a chunk, torch `nn.LSTM`.
    ///
    /// - Parameters:
    ///   - x: `[B·T, in]`. - hidden, cell: `[B, H]`; nil is zero. - isReversed: time runs backwards.
    /// - Returns: output `[B·T, H]`, hidden and cell state after the last step `[B, H]`.
    public func lstm(
        _ x: Variable, _ weights: RecurrentParameters, batch: Int, time: Int, hidden: Variable?, cell: Variable?,
        isReversed: Bool
    ) -> (output: Variable, hidden: Variable, cell: Variable) {
        let size = weights.hiddenSize
        let gates = gatePreactivations(x, weights, bias: summedBias(weights))
        let y = context.tensor(Shape(batch * time, size))
        let cells = context.tensor(Shape(batch * time, size))
        let finalHidden = context.tensor(Shape(batch, size))
        let finalCell = context.tensor(Shape(batch, size))
        LSTMKernel.forward(
            batch: batch, time: time, hidden: size, gates: gates.pointer,
            weights: weights.packedForForward(threads), h0: pointer(hidden), c0: pointer(cell), cells: cells.pointer,
            y: y.pointer, hN: finalHidden.pointer, cN: finalCell.pointer,
            reversed: isReversed, threads: threads)

        let output = self.output(y, from: x, hidden, cell, hasParameters: true)
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
                batch: batch, time: time, hidden: size, gates: gates.pointer,
                weights: weights.packedForBackward(self.threads), cells: cells.pointer, c0: self.pointer(cell),
                dy: dy?.pointer.constant, dhN: dHidden?.pointer.constant,
                dcN: dCell?.pointer.constant, dh0: dHiddenIn.pointer, dc0: dCellIn.pointer,
                reversed: isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            cell?.accumulate(dCellIn, self.context)
            self.recurrentGradients(
                x, weights, y: y, hidden: hidden, inputGates: gates, recurrentGates: [(gates, 4 * size)], batch: batch,
                time: time, isReversed: isReversed)
        }
        return (output, hiddenOut, cellOut)
    }

    /// One direction of one GRU layer over a chunk, torch `nn.GRU`; shapes as for `lstm`.
    public func gru(
        _ x: Variable, _ weights: RecurrentParameters, batch: Int, time: Int, hidden: Variable?, isReversed: Bool
    ) -> (output: Variable, hidden: Variable) {
        let size = weights.hiddenSize
        let gates = gatePreactivations(x, weights, bias: gruBias(weights))
        let products = context.tensor(Shape(batch * time, size))
        let y = context.tensor(Shape(batch * time, size))
        let finalHidden = context.tensor(Shape(batch, size))
        GRUKernel.forward(
            batch: batch, time: time, hidden: size, gates: gates.pointer,
            biasN: weights.recurrentBias.map { ($0.value.pointer + 2 * size).constant },
            weights: weights.packedForForward(threads), h0: pointer(hidden), q: products.pointer, y: y.pointer,
            hN: finalHidden.pointer, reversed: isReversed, threads: threads)

        let output = self.output(y, from: x, hidden, hasParameters: true)
        let hiddenOut = Variable(finalHidden, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dHidden != nil else { return }
            let dHiddenIn = self.context.tensor(Shape(batch, size))
            // Gates and products are overwritten by their gradients.
            GRUKernel.backward(
                batch: batch, time: time, hidden: size, gates: gates.pointer, q: products.pointer,
                weights: weights.packedForBackward(self.threads), y: y.pointer, h0: self.pointer(hidden),
                dy: dy?.pointer.constant, dhN: dHidden?.pointer.constant, dh0: dHiddenIn.pointer,
                reversed: isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            self.recurrentGradients(
                x, weights, y: y, hidden: hidden, inputGates: gates,
                recurrentGates: [(gates, 2 * size), (products, size)], batch: batch, time: time,
                isReversed: isReversed)
        }
        return (output, hiddenOut)
    }

    /// One direction of one Elman layer over a chunk, torch `nn.RNN`; shapes as for `lstm`.
    public func elman(
        _ x: Variable, _ weights: RecurrentParameters, batch: Int, time: Int, hidden: Variable?, isReLU: Bool,
        isReversed: Bool
    ) -> (output: Variable, hidden: Variable) {
        let size = weights.hiddenSize
        let y = gatePreactivations(x, weights, bias: summedBias(weights))
        let finalHidden = context.tensor(Shape(batch, size))
        let nonlinearity: ElmanKernel.Nonlinearity = isReLU ? .relu : .tanh
        ElmanKernel.forward(
            batch: batch, time: time, hidden: size, nonlinearity: nonlinearity, preactivations: y.pointer,
            weights: weights.packedForForward(threads), h0: pointer(hidden), y: y.pointer, hN: finalHidden.pointer,
            reversed: isReversed, threads: threads)

        let output = self.output(y, from: x, hidden, hasParameters: true)
        let hiddenOut = Variable(finalHidden, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dHidden != nil else { return }
            let dHiddenIn = self.context.tensor(Shape(batch, size))
            let gates = self.context.tensor(y.shape)
            ElmanKernel.backward(
                batch: batch, time: time, hidden: size, nonlinearity: nonlinearity,
                weights: weights.packedForBackward(self.threads), y: y.pointer, dy: dy?.pointer.constant,
                dhN: dHidden?.pointer.constant, dPreactivations: gates.pointer, dh0: dHiddenIn.pointer,
                reversed: isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            self.recurrentGradients(
                x, weights, y: y, hidden: hidden, inputGates: gates, recurrentGates: [(gates, size)], batch: batch,
                time: time, isReversed: isReversed)
        }
        return (output, hiddenOut)
    }

    private func pointer(_ variable: Variable?) -> UnsafePointer<Float>? {
        variable.map { UnsafePointer($0.value.pointer) }
    }

    /// `b_ih + b_hh`, which only ever occur as their sum.
    private func summedBias(_ weights: RecurrentParameters) -> Tensor? {
        guard let input = weights.inputBias?.value, let recurrent = weights.recurrentBias?.value else { return nil }
        let sum = context.tensor(input.shape)
        Elementwise.add(input.pointer, recurrent.pointer, into: sum.pointer, count: sum.count, threads: threads)
        return sum
    }

    /// As `summedBias`, but without the candidate's recurrent bias, which sits inside the reset gate's product.
    private func gruBias(_ weights: RecurrentParameters) -> Tensor? {
        guard let sum = summedBias(weights), let input = weights.inputBias?.value else { return nil }
        let size = weights.hiddenSize
        (sum.pointer + 2 * size).update(from: input.pointer + 2 * size, count: size)
        return sum
    }

    /// `x Wihᵀ + b` for all steps at once, `[B·T, G·H]`.
    private func gatePreactivations(_ x: Variable, _ weights: RecurrentParameters, bias: Tensor?) -> Tensor {
        let (rows, input, width) = (x.value.rows, x.value.width, weights.inputWeight.shape[0])
        let gates = context.tensor(Shape(rows, width))
        GEMM.multiply(
            x.value.pointer, lda: input, weights.inputWeight.value.pointer, transposeB: true, ldb: input, m: rows,
            n: width, k: input, accumulate: false, bias: bias.map { UnsafePointer($0.pointer) }, into: gates.pointer,
            ldc: width, threads: threads)
        return gates
    }

    /// `dx` now; `dWih`, `dWhh` and the biases later, each one product over all steps.
    ///
    /// - Parameters:
    ///   - inputGates: gradients of `x Wihᵀ + b_ih`, `[B·T, G·H]`.
    ///   - recurrentGates: gradients of `h Whhᵀ + b_hh`: tensors whose first columns are its next rows.
    private func recurrentGradients(
        _ x: Variable, _ weights: RecurrentParameters, y: Tensor, hidden: Variable?, inputGates: Tensor,
        recurrentGates: [(tensor: Tensor, columns: Int)], batch: Int, time: Int, isReversed: Bool
    ) {
        multiplyGradient(inputGates, weight: weights.inputWeight, into: x)
        postponeLinearWeightGradient(inputGates, x.value, weight: weights.inputWeight, bias: weights.inputBias)
        let initial = hidden?.value
        postpone { [context, threads] in
            let size = weights.hiddenSize
            let rows = batch * time
            let previous = context.tensor(Shape(rows, size))
            RecurrentSequence.previousStates(
                y.pointer, h0: initial?.pointer.constant, batch: batch, time: time, hidden: size, reversed: isReversed,
                into: previous.pointer, threads: threads)
            let weight = weights.recurrentWeight.writableGradient(context)
            let bias = weights.recurrentBias?.writableGradient(context)
            var row = 0
            for (gates, columns) in recurrentGates {
                GEMM.multiply(
                    gates.pointer, transposeA: true, lda: gates.width, previous.pointer, ldb: size, m: columns,
                    n: size, k: rows, accumulate: !weight.isFresh, into: weight.tensor.pointer + row * size,
                    ldc: size, threads: threads)
                if let bias {
                    Reductions.columnSums(
                        gates.pointer, rows: rows, columns: columns, stride: gates.width, accumulate: !bias.isFresh,
                        into: bias.tensor.pointer + row, threads: threads)
                }
                row += columns
            }
        }
    }
}

extension UnsafeMutablePointer<Float> {
    /// The same address for a kernel that only reads, where Swift cannot convert by itself (optionals).
    var constant: UnsafePointer<Float> { UnsafePointer(self) }
}
