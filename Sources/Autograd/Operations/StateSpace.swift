import Kernels
import Tensors

extension Tape {
    /// A time-invariant state space per channel, see `StateSpaceScan`.
    ///
    /// - Parameters:
    ///   - u: `[B·T, C]`.
    ///   - table: `[C, N, K]`; K says which transition it is of.
    ///   - skip: `D`, `C` elements.
    ///   - state: `[B, C·N·2]`; nil is zero.
    /// - Returns: `y [B·T, C]` and the state after the last step.
    public func stateSpace(
        _ u: Variable, table: Variable, skip: ParameterUse, batch: Int, time: Int, state: Variable?
    ) -> (output: Variable, state: Variable) {
        let (channels, states, columns) = (table.shape[0], table.shape[1], table.shape[2])
        let transition = StateSpaceScan.Transition.allCases.first { $0.columns == columns }
        require(
            u.shape == Shape(batch * time, channels) && transition != nil && skip.shape.count == channels,
            "stateSpace: u \(u.shape), table \(table.shape), skip \(skip.shape); expected [\(batch * time), C], [C, N, 6, 10 or 16], [C]"
        )
        let scan = StateSpaceScan(
            batch: batch, time: time, channels: channels, states: states, transition: transition!)
        let packed = context.tensor(Shape(scan.packedTableCount))
        scan.packTable(table.value.pointer, into: packed.pointer)
        let y = context.tensor(u.shape)
        let stateOut = context.tensor(Shape(batch, channels * states * 2))
        let checkpoints = isRecording ? context.tensor(Shape(scan.checkpointCount)) : nil
        scan.forward(
            u.value.pointer, table: packed.pointer, skip: skip.value.pointer,
            stateIn: state?.value.pointer.constant, into: y.pointer, stateOut: stateOut.pointer,
            checkpoints: checkpoints?.pointer, threads: threads)

        let output = self.output(y, from: u, state, hasParameters: true)
        let finalState = Variable(stateOut, needsGradient: output.needsGradient)
        recordRaw { [context, threads] in
            let dStateOut = finalState.takeGradient()
            var dy = output.takeGradient()
            if dy == nil, dStateOut != nil { dy = context.zeros(u.shape) }
            guard let dy, let checkpoints else { return }
            let du = context.tensor(u.shape)
            let tableParts = context.tensor(Shape(scan.tablePartsCount))
            let skipParts = context.tensor(Shape(batch, channels))
            let dStateIn = context.tensor(stateOut.shape)
            let dTable = context.tensor(table.shape)
            scan.backward(
                u.value.pointer, table: packed.pointer, skip: skip.value.pointer, checkpoints: checkpoints.pointer,
                dy: dy.pointer, dStateOut: dStateOut?.pointer.constant, into: du.pointer,
                tableParts: tableParts.pointer, skipParts: skipParts.pointer, dStateIn: dStateIn.pointer,
                threads: threads)
            scan.sumTableParts(tableParts.pointer, into: dTable.pointer)
            u.accumulate(du, context)
            table.accumulate(dTable, context)
            state?.accumulate(dStateIn, context)
            self.postponeColumnSums(skipParts, into: skip)
        }
        return (output, finalState)
    }

    /// `x_t = a x_{t−1} + b_t` over complex lanes, see `ComplexScan`.
    ///
    /// - Parameters:
    ///   - b: `[B·T, 2P]`, real parts, then imaginary ones. - a: `[2P]` alike.
    ///   - state: `[B, P·2]`, pairs; nil is zero.
    /// - Returns: `x [B·T, 2P]` and the state after the last step.
    public func complexScan(
        _ b: Variable, decay a: Variable, batch: Int, time: Int, state: Variable?
    ) -> (output: Variable, state: Variable) {
        let lanes = a.shape.count / 2
        require(
            b.shape == Shape(batch * time, 2 * lanes),
            "complexScan: b \(b.shape); expected [\(batch * time), \(2 * lanes)]")
        let scan = ComplexScan(batch: batch, time: time, lanes: lanes)
        let x = context.tensor(b.shape)
        let stateOut = context.tensor(Shape(batch, lanes * 2))
        scan.forward(
            a: a.value.pointer, b: b.value.pointer, stateIn: state?.value.pointer.constant, into: x.pointer,
            stateOut: stateOut.pointer, threads: threads)
        let output = self.output(x, from: b, a, state)
        let finalState = Variable(stateOut, needsGradient: output.needsGradient)
        recordRaw { [context, threads] in
            let dStateOut = finalState.takeGradient()
            var dx = output.takeGradient()
            if dx == nil, dStateOut != nil { dx = context.zeros(x.shape) }
            guard let dx else { return }
            let db = context.tensor(x.shape)
            let parts = context.tensor(Shape(batch, 2 * lanes))
            let da = context.tensor(a.shape)
            let dStateIn = context.tensor(stateOut.shape)
            scan.backward(
                a: a.value.pointer, x: x.pointer, stateIn: state?.value.pointer.constant, dx: dx.pointer,
                dStateOut: dStateOut?.pointer.constant, into: db.pointer, daParts: parts.pointer,
                dStateIn: dStateIn.pointer, threads: threads)
            Reductions.columnSums(
                parts.pointer, rows: batch, columns: 2 * lanes, accumulate: false, into: da.pointer, threads: threads)
            b.accumulate(db, context)
            a.accumulate(da, context)
            state?.accumulate(dStateIn, context)
        }
        return (output, finalState)
    }

    /// `y + D ⊙ u`: the skip around a state space.
    ///
    /// - Parameters:
    ///   - y, u: `[R, C]`. - skip: `D [C]`.
    public func add(_ y: Variable, _ u: Variable, scaledBy skip: ParameterUse) -> Variable {
        let (rows, width) = (u.value.rows, u.value.width)
        require(y.shape == u.shape && skip.shape.count == width, "add: \(y.shape), \(u.shape), D \(skip.shape)")
        let sum = context.tensor(u.shape)
        sum.copy(from: y.value)
        Elementwise.multiplyAdd(
            row: skip.value.pointer, u.value.pointer, to: sum.pointer, rows: rows, columns: width, threads: threads)
        let result = output(sum, from: y, u, hasParameters: true)
        record(result) { [context, threads] dSum in
            y.accumulate(dSum, context)
            if u.needsGradient {
                let (du, isFresh) = u.writableGradient(context)
                if isFresh { du.fill(0) }
                Elementwise.multiplyAdd(
                    row: skip.value.pointer, dSum.pointer, to: du.pointer, rows: rows, columns: width,
                    threads: threads)
            }
            let products = context.tensor(u.shape)
            Elementwise.multiply(
                dSum.pointer, u.value.pointer, into: products.pointer, count: products.count, threads: threads)
            self.postponeColumnSums(products, into: skip)
        }
        return result
    }
}
