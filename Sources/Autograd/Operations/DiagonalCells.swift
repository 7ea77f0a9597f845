import Kernels
import Tensors

/// Recurrent cells whose state stays in its channel, over a chunk. `gates`, `[B·T, G·C]`, come from
/// ``Tape/gates(_:biases:_:)``, gate by gate, and are overwritten; states are `[B, C]`, nil is zero. Returned are the output `[B·T, C]` and
/// the state after the last step.
extension Tape {
    /// minGRU (arXiv 2410.01201), gates hidden, z. See `DiagonalCells.minGRU`.
    public func minGRU(
        _ gates: Variable, isPositive: Bool, batch: Int, time: Int, hidden: Variable?
    ) -> (output: Variable, hidden: Variable) {
        let cells = DiagonalCells(batch: batch, time: time, channels: gates.value.width / 2, threads: threads)
        return diagonalCell(
            gates, cells, hidden,
            forward: { gates, y, h in cells.minGRU(gates: gates, isPositive: isPositive, y: y, h: h) },
            backward: { gates, y, h0, dy, dh in
                cells.minGRUBackward(gates: gates, isPositive: isPositive, y: y, h0: h0, dy: dy, dh: dh)
            })
    }

    /// minLSTM (arXiv 2410.01201), gates hidden, f, i. See `DiagonalCells.minLSTM`.
    public func minLSTM(
        _ gates: Variable, isPositive: Bool, batch: Int, time: Int, hidden: Variable?
    ) -> (output: Variable, hidden: Variable) {
        let cells = DiagonalCells(batch: batch, time: time, channels: gates.value.width / 3, threads: threads)
        let forget = context.tensor(Shape(batch * time, cells.channels))
        return diagonalCell(
            gates, cells, hidden,
            forward: { gates, y, h in
                cells.minLSTM(gates: gates, isPositive: isPositive, forget: forget.pointer, y: y, h: h)
            },
            backward: { gates, y, h0, dy, dh in
                cells.minLSTMBackward(
                    gates: gates, isPositive: isPositive, forget: forget.pointer, y: y, h0: h0, dy: dy, dh: dh)
            })
    }

    /// ParaRNN's GRU (arXiv 2510.21450), gates z, r, n.
    ///
    /// - Parameters:
    ///   - a: diagonal recurrence `[3, C]`.
    ///   - newton: solve for all steps at once instead of one after the other.
    public func diagonalGRU(
        _ gates: Variable, a: ParameterUse, newton: NewtonSolver? = nil, batch: Int, time: Int, hidden: Variable?
    ) -> (output: Variable, hidden: Variable) {
        let cells = DiagonalCells(batch: batch, time: time, channels: gates.value.width / 3, threads: threads)
        return diagonalCell(
            gates, cells, hidden,
            forward: { gates, y, h in
                if let newton {
                    cells.gru(solvedBy: newton, gates: gates, a: a.value.pointer, y: y, h: h)
                } else {
                    cells.gru(gates: gates, a: a.value.pointer, y: y, h: h)
                }
            },
            backward: { gates, y, h0, dy, dh in
                let da = self.context.tensor(Shape(batch, 3 * cells.channels))
                cells.gruBackward(
                    gates: gates, a: a.value.pointer, y: y, h0: h0, dy: dy, dh: dh, da: da.pointer)
                self.postponeColumnSums(da, into: a)
            })
    }

    /// ParaRNN's LSTM (arXiv 2510.21450), gates f, o, g.
    ///
    /// - Parameters:
    ///   - a: diagonal recurrence on h, `[3, C]`. - peepholes: on c, `[2, C]`. - newton: as for `diagonalGRU`.
    ///   - state: `[B, 2·C]`, c then h.
    public func diagonalLSTM(
        _ gates: Variable, a: ParameterUse, peepholes: ParameterUse, newton: NewtonSolver? = nil, batch: Int, time: Int,
        state: Variable?
    ) -> (output: Variable, state: Variable) {
        let channels = gates.value.width / 3
        let run = DiagonalCells(batch: batch, time: time, channels: channels, threads: threads)
        let activated = gates.value
        let y = context.tensor(Shape(batch * time, channels))
        let cells = context.tensor(y.shape)
        let initial = halves(of: state?.value, batch: batch, channels: channels)
        let (c, h) = (copy(of: initial?.0, Shape(batch, channels)), copy(of: initial?.1, Shape(batch, channels)))
        if let newton {
            run.lstm(
                solvedBy: newton, gates: activated.pointer, a: a.value.pointer, peepholes: peepholes.value.pointer,
                cells: cells.pointer, y: y.pointer, h: h.pointer, c: c.pointer)
        } else {
            run.lstm(
                gates: activated.pointer, a: a.value.pointer, peepholes: peepholes.value.pointer, cells: cells.pointer,
                y: y.pointer, h: h.pointer, c: c.pointer)
        }
        let output = self.output(y, from: gates, state, hasParameters: true)
        let stateOut = Variable(joined(c, h), needsGradient: output.needsGradient)
        recordRaw {
            let dState = stateOut.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dState != nil else { return }
            let final = self.halves(of: dState, batch: batch, channels: channels)
            let dc = self.copy(of: final?.0, Shape(batch, channels))
            let dh = self.copy(of: final?.1, Shape(batch, channels))
            let da = self.context.tensor(Shape(batch, 5 * channels))
            run.lstmBackward(
                gates: activated.pointer, a: a.value.pointer, peepholes: peepholes.value.pointer, cells: cells.pointer,
                y: y.pointer, h0: initial?.1.pointer.constant, c0: initial?.0.pointer.constant,
                dy: dy?.pointer.constant, dh: dh.pointer, dc: dc.pointer, da: da.pointer)
            state?.accumulate(self.joined(dc, dh), self.context)
            gates.accumulate(activated, self.context)
            self.postpone { [context = self.context, threads = self.threads] in
                for (use, first, count) in [(a, 0, 3), (peepholes, 3, 2)] {
                    let (gradient, isFresh) = use.writableGradient(context)
                    Reductions.columnSums(
                        da.pointer + first * channels, rows: batch, columns: count * channels, stride: 5 * channels,
                        accumulate: !isFresh, into: gradient.pointer, threads: threads)
                }
            }
        }
        return (output, stateOut)
    }

    /// What the cells of one state have in common; `backward` turns the gates into their gradients.
    private func diagonalCell(
        _ gates: Variable, _ cells: DiagonalCells, _ hidden: Variable?,
        forward: (
            _ gates: UnsafeMutablePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ h: UnsafeMutablePointer<Float>
        )
            -> Void,
        backward:
            @escaping (
                _ gates: UnsafeMutablePointer<Float>, _ y: UnsafePointer<Float>, _ h0: UnsafePointer<Float>?,
                _ dy: UnsafePointer<Float>?, _ dh: UnsafeMutablePointer<Float>
            ) -> Void
    ) -> (output: Variable, hidden: Variable) {
        let stateShape = Shape(cells.batch, cells.channels)
        let (activated, h0) = (gates.value, hidden?.value)
        let y = context.tensor(Shape(cells.batch * cells.time, cells.channels))
        let h = copy(of: h0, stateShape)
        forward(activated.pointer, y.pointer, h.pointer)
        let output = self.output(y, from: gates, hidden, hasParameters: true)
        let hiddenOut = Variable(h, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dHidden != nil else { return }
            let dh = self.copy(of: dHidden, stateShape)
            backward(activated.pointer, y.pointer, h0?.pointer.constant, dy?.pointer.constant, dh.pointer)
            hidden?.accumulate(dh, self.context)
            gates.accumulate(activated, self.context)
        }
        return (output, hiddenOut)
    }

    /// A copy to work in; zeros without a source.
    private func copy(of source: Tensor?, _ shape: Shape) -> Tensor {
        let result = context.tensor(shape)
        if let source { result.copy(from: source) } else { result.fill(0) }
        return result
    }

    /// `[B, 2·C]` as two of `[B, C]`.
    private func halves(of state: Tensor?, batch: Int, channels: Int) -> (Tensor, Tensor)? {
        guard let state else { return nil }
        let parts = (context.tensor(Shape(batch, channels)), context.tensor(Shape(batch, channels)))
        for row in 0..<batch {
            let from = state.pointer + row * 2 * channels
            (parts.0.pointer + row * channels).update(from: from, count: channels)
            (parts.1.pointer + row * channels).update(from: from + channels, count: channels)
        }
        return parts
    }

    private func joined(_ a: Tensor, _ b: Tensor) -> Tensor {
        let (batch, channels) = (a.rows, a.width)
        let result = context.tensor(Shape(batch, 2 * channels))
        for row in 0..<batch {
            let to = result.pointer + row * 2 * channels
            to.update(from: a.pointer + row * channels, count: channels)
            (to + channels).update(from: b.pointer + row * channels, count: channels)
        }
        return result
    }
}
