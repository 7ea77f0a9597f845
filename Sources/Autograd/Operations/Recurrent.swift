import Kernels
import Tensors

/// Parameters of one direction of one recurrent layer, `G` gates: `[G·H, in]`, `[G·H, H]`, `[G·H]`, `[G·H]`.
public struct RecurrentWeights {
    public let inputWeight, recurrentWeight: ParameterUse
    public let inputBias, recurrentBias: ParameterUse?

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
}

extension Tape {
    /// One direction of one LSTM layer over a chunk, torch `nn.LSTM`.
    ///
    /// - Parameters:
    ///   - x: `[B·T, in]`. - hidden, cell: `[B, H]`; nil is zero. - isReversed: time runs backwards.
    /// - Returns: output `[B·T, H]`, hidden and cell state after the last step `[B, H]`.
    public func lstm(
        _ x: Variable, _ weights: RecurrentWeights, batch: Int, time: Int, hidden: Variable?, cell: Variable?,
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
            recurrentWeight: weights.recurrentWeight.value.pointer, h0: pointer(hidden), c0: pointer(cell),
            cells: cells.pointer, y: y.pointer, hN: finalHidden.pointer, cN: finalCell.pointer,
            reversed: isReversed, threads: threads)

        let output = self.output(y, from: x, hidden, cell, hasParameters: true)
        let hiddenOut = Variable(finalHidden, needsGradient: output.needsGradient)
        let cellOut = Variable(finalCell, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            let dCell = cellOut.takeGradient()
            guard let dy = self.outputGradient(output, dHidden, dCell) else { return }
            let dHiddenIn = self.context.tensor(Shape(batch, size))
            let dCellIn = self.context.tensor(Shape(batch, size))
            // The activated gates are overwritten by their gradients.
            LSTMKernel.backward(
                batch: batch, time: time, hidden: size, gates: gates.pointer,
                recurrentWeight: weights.recurrentWeight.value.pointer, cells: cells.pointer, c0: self.pointer(cell),
                dy: dy.pointer, dhN: dHidden.map { UnsafePointer($0.pointer) },
                dcN: dCell.map { UnsafePointer($0.pointer) }, dh0: dHiddenIn.pointer, dc0: dCellIn.pointer,
                reversed: isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            cell?.accumulate(dCellIn, self.context)
            self.recurrentGradients(
                x, weights, y: y, hidden: hidden, inputGates: gates, recurrentGates: gates, batch: batch, time: time,
                isReversed: isReversed)
        }
        return (output, hiddenOut, cellOut)
    }

    /// One direction of one GRU layer over a chunk, torch `nn.GRU`; shapes as for `lstm`.
    public func gru(
        _ x: Variable, _ weights: RecurrentWeights, batch: Int, time: Int, hidden: Variable?, isReversed: Bool
    ) -> (output: Variable, hidden: Variable) {
        let size = weights.hiddenSize
        // The recurrent bias of the candidate sits inside the reset gate's product: it cannot join this sum.
        let gates = gatePreactivations(x, weights, bias: weights.inputBias?.value)
        let candidates = context.tensor(Shape(batch * time, size))
        let y = context.tensor(Shape(batch * time, size))
        let finalHidden = context.tensor(Shape(batch, size))
        GRUKernel.forward(
            batch: batch, time: time, hidden: size, gates: gates.pointer,
            recurrentWeight: weights.recurrentWeight.value.pointer,
            recurrentBias: weights.recurrentBias.map { UnsafePointer($0.value.pointer) }, h0: pointer(hidden),
            candidates: candidates.pointer, y: y.pointer, hN: finalHidden.pointer, reversed: isReversed,
            threads: threads)

        let output = self.output(y, from: x, hidden, hasParameters: true)
        let hiddenOut = Variable(finalHidden, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            guard let dy = self.outputGradient(output, dHidden) else { return }
            let dHiddenIn = self.context.tensor(Shape(batch, size))
            let dRecurrent = self.context.tensor(Shape(batch * time, 3 * size))
            GRUKernel.backward(
                batch: batch, time: time, hidden: size, gates: gates.pointer, recurrentGates: dRecurrent.pointer,
                recurrentWeight: weights.recurrentWeight.value.pointer, candidates: candidates.pointer, y: y.pointer,
                h0: self.pointer(hidden), dy: dy.pointer, dhN: dHidden.map { UnsafePointer($0.pointer) },
                dh0: dHiddenIn.pointer, reversed: isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            self.recurrentGradients(
                x, weights, y: y, hidden: hidden, inputGates: gates, recurrentGates: dRecurrent, batch: batch,
                time: time, isReversed: isReversed)
        }
        return (output, hiddenOut)
    }

    /// One direction of one Elman layer over a chunk, torch `nn.RNN`; shapes as for `lstm`.
    public func elman(
        _ x: Variable, _ weights: RecurrentWeights, batch: Int, time: Int, hidden: Variable?, isReLU: Bool,
        isReversed: Bool
    ) -> (output: Variable, hidden: Variable) {
        let size = weights.hiddenSize
        let gates = gatePreactivations(x, weights, bias: summedBias(weights))
        let y = context.tensor(Shape(batch * time, size))
        let finalHidden = context.tensor(Shape(batch, size))
        ElmanKernel.forward(
            batch: batch, time: time, hidden: size, gates: gates.pointer,
            recurrentWeight: weights.recurrentWeight.value.pointer, h0: pointer(hidden), y: y.pointer,
            hN: finalHidden.pointer, nonlinearity: isReLU ? .relu : .tanh, reversed: isReversed, threads: threads)

        let output = self.output(y, from: x, hidden, hasParameters: true)
        let hiddenOut = Variable(finalHidden, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            guard let dy = self.outputGradient(output, dHidden) else { return }
            let dHiddenIn = self.context.tensor(Shape(batch, size))
            ElmanKernel.backward(
                batch: batch, time: time, hidden: size, gates: gates.pointer,
                recurrentWeight: weights.recurrentWeight.value.pointer, y: y.pointer, dy: dy.pointer,
                dhN: dHidden.map { UnsafePointer($0.pointer) }, dh0: dHiddenIn.pointer,
                nonlinearity: isReLU ? .relu : .tanh, reversed: isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            self.recurrentGradients(
                x, weights, y: y, hidden: hidden, inputGates: gates, recurrentGates: gates, batch: batch, time: time,
                isReversed: isReversed)
        }
        return (output, hiddenOut)
    }

    private func pointer(_ variable: Variable?) -> UnsafePointer<Float>? {
        variable.map { UnsafePointer($0.value.pointer) }
    }

    /// `b_ih + b_hh`, which only ever occur as their sum.
    private func summedBias(_ weights: RecurrentWeights) -> Tensor? {
        guard let input = weights.inputBias?.value, let recurrent = weights.recurrentBias?.value else { return nil }
        let sum = context.tensor(input.shape)
        Elementwise.add(input.pointer, recurrent.pointer, into: sum.pointer, count: sum.count, threads: threads)
        return sum
    }

    /// `x Wihᵀ + b` for all steps at once, `[B·T, G·H]`.
    private func gatePreactivations(_ x: Variable, _ weights: RecurrentWeights, bias: Tensor?) -> Tensor {
        let (rows, input, width) = (x.value.rows, x.value.width, weights.inputWeight.shape[0])
        let gates = context.tensor(Shape(rows, width))
        GEMM.multiply(
            x.value.pointer, lda: input, weights.inputWeight.value.pointer, transposeB: true, ldb: input, m: rows,
            n: width, k: input, accumulate: false, bias: bias.map { UnsafePointer($0.pointer) }, into: gates.pointer,
            ldc: width, threads: threads)
        return gates
    }

    /// The gradient of the output; zeros when only the state received one, nil when nothing did.
    private func outputGradient(_ output: Variable, _ stateGradients: Tensor?...) -> Tensor? {
        if let dy = output.takeGradient() { return dy }
        return stateGradients.contains { $0 != nil } ? context.zeros(output.shape) : nil
    }

    /// `dx` now; `dWih`, `dWhh` and the biases later, each one product over all steps.
    ///
    /// - Parameters:
    ///   - inputGates: gradients of `x Wihᵀ + b_ih`, `[B·T, G·H]`. - recurrentGates: of `h Whhᵀ + b_hh`.
    private func recurrentGradients(
        _ x: Variable, _ weights: RecurrentWeights, y: Tensor, hidden: Variable?, inputGates: Tensor,
        recurrentGates: Tensor, batch: Int, time: Int, isReversed: Bool
    ) {
        multiplyGradient(inputGates, weight: weights.inputWeight, into: x)
        postponeLinearWeightGradient(inputGates, x.value, weight: weights.inputWeight, bias: weights.inputBias)
        let input = x.value
        let initial = hidden?.value
        postpone { [context, threads] in
            let size = weights.hiddenSize
            let (rows, width) = (input.rows, recurrentGates.width)
            let previous = context.tensor(Shape(rows, size))
            RecurrentKernel.previousStates(
                y.pointer, h0: initial.map { UnsafePointer($0.pointer) }, batch: batch, time: time, hidden: size,
                reversed: isReversed, into: previous.pointer, threads: threads)
            let (dw, isFresh) = weights.recurrentWeight.writableGradient(context)
            GEMM.multiply(
                recurrentGates.pointer, transposeA: true, lda: width, previous.pointer, ldb: size, m: width, n: size,
                k: rows, accumulate: !isFresh, into: dw.pointer, ldc: size, threads: threads)
            if let bias = weights.recurrentBias {
                let (db, isFresh) = bias.writableGradient(context)
                Reductions.columnSums(
                    recurrentGates.pointer, rows: rows, columns: width, accumulate: !isFresh, into: db.pointer,
                    threads: threads)
            }
        }
    }
}
