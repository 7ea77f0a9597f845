import Kernels
import Tensors

extension Tape {
    /// Mixes each token with the one before it, once for every `μ`: `μ ⊙ x_t + (1 − μ) ⊙ x_{t−1}`.
    ///
    /// - Parameters:
    ///   - x: `[B·T, C]`. - before: `[B, C]`, the token ahead of each sequence; nil is zero. - mixes: `C` elements each.
    /// - Returns: `[B·T, C]` for every mix, and the last tokens `[B, C]`.
    public func tokenShift(
        _ x: Variable, before: Variable?, mixes: [ParameterUse], batch: Int, time: Int
    ) -> (outputs: [Variable], last: Variable) {
        let channels = x.value.width
        require(
            x.value.rows == batch * time && mixes.allSatisfy { $0.shape.count == channels },
            "tokenShift: x \(x.shape), mixes \(mixes.map(\.shape)), B \(batch), T \(time)")
        let history = before?.value
        let last = context.tensor(Shape(batch, channels))
        for b in 0..<batch {
            (last.pointer + b * channels).update(
                from: x.value.pointer + ((b + 1) * time - 1) * channels, count: channels)
        }
        let lastOut = Variable(last, needsGradient: isRecording && x.needsGradient)
        recordRaw { [context] in
            guard let dLast = lastOut.takeGradient() else { return }
            let (dx, isFresh) = x.writableGradient(context)
            if isFresh { dx.fill(0) }
            for b in 0..<batch {
                let row = dx.pointer + ((b + 1) * time - 1) * channels
                for c in 0..<channels { row[c] += dLast.pointer[b * channels + c] }
            }
        }
        let outputs = mixes.map { mix in
            let y = context.tensor(x.shape)
            TokenShift.forward(
                x.value.pointer, before: history?.pointer.constant, mix: mix.value.pointer, into: y.pointer,
                batch: batch, time: time, channels: channels, threads: threads)
            let result = output(y, from: x, before, hasParameters: true)
            record(result) { [context, threads] dy in
                let (dx, isFresh) = x.writableGradient(context)
                let dBefore = before?.needsGradient == true ? context.tensor(Shape(batch, channels)) : nil
                TokenShift.inputGradient(
                    dy.pointer, mix: mix.value.pointer, accumulate: !isFresh, into: dx.pointer,
                    dBefore: dBefore?.pointer, batch: batch, time: time, channels: channels, threads: threads)
                if let dBefore { before?.accumulate(dBefore, context) }
                let parts = context.tensor(Shape(batch, channels))
                TokenShift.mixGradient(
                    dy.pointer, x: x.value.pointer, before: history?.pointer.constant, into: parts.pointer,
                    batch: batch, time: time, channels: channels, threads: threads)
                self.postponeColumnSums(parts, into: mix)
            }
            return result
        }
        return (outputs, lastOut)
    }

    /// State of ``weightedKeyValue``, `[B, C]` each.
    public struct WeightedKeyValueState {
        public let p, q, o: Variable

        public init(p: Variable, q: Variable, o: Variable) { (self.p, self.q, self.o) = (p, q, o) }
    }

    /// The weighted average of values of RWKV-4, see `WeightedKeyValue`, with `w = −e^{decay}`.
    ///
    /// - Parameters:
    ///   - k, v: `[B·T, C]`. - decay, first: `[C]`, `time_decay` and `u`. - state: nil is empty.
    /// - Returns: `[B·T, C]` and the state after the last step.
    public func weightedKeyValue(
        k: Variable, v: Variable, decay: ParameterUse, first: ParameterUse, batch: Int, time: Int,
        state: WeightedKeyValueState?
    ) -> (output: Variable, state: WeightedKeyValueState) {
        let channels = decay.shape.count
        require(
            k.shape == Shape(batch * time, channels) && v.shape == k.shape && first.shape.count == channels,
            "weightedKeyValue: k \(k.shape), v \(v.shape), decay \(decay.shape), first \(first.shape)")
        let kernel = WeightedKeyValue(batch: batch, time: time, channels: channels)
        let plane = Shape(batch, channels)
        let w = context.tensor(Shape(channels))
        Activations.exp(decay.value.pointer, into: w.pointer, count: channels, threads: threads)
        Elementwise.scale(w.pointer, by: -1, into: w.pointer, count: channels, threads: threads)
        let final = context.tensor(Shape(3, batch, channels))
        let initial = [state?.p, state?.q, state?.o]
        for (part, variable) in initial.enumerated() {
            let target = final.pointer + part * plane.count
            if let variable {
                target.update(from: variable.value.pointer, count: plane.count)
            } else {
                target.update(repeating: part == 2 ? WeightedKeyValue.emptyExponent : 0, count: plane.count)
            }
        }
        let y = context.tensor(k.shape)
        let checkpoints = isRecording ? context.tensor(Shape(kernel.checkpointCount)) : nil
        let operands = WeightedKeyValue.Operands(
            k: k.value.pointer, v: v.value.pointer, w: w.pointer, u: first.value.pointer)
        kernel.forward(
            operands, state: final.pointer, into: y.pointer, checkpoints: checkpoints?.pointer, threads: threads)

        let output = self.output(y, from: k, v, state?.p, hasParameters: true)
        let parts = (0..<3).map { part in
            let tensor = context.tensor(plane)
            tensor.copy(from: final.pointer + part * plane.count, count: plane.count)
            return Variable(tensor, needsGradient: output.needsGradient)
        }
        recordRaw { [context, threads] in
            let dParts = parts.map { $0.takeGradient() }
            var dy = output.takeGradient()
            if dy == nil, dParts.contains(where: { $0 != nil }) { dy = context.zeros(k.shape) }
            guard let dy, let checkpoints else { return }
            let dState = context.zeros(final.shape)
            for (part, gradient) in dParts.enumerated() {
                guard let gradient else { continue }
                (dState.pointer + part * plane.count).update(from: gradient.pointer, count: plane.count)
            }
            let (dk, dv) = (context.tensor(k.shape), context.tensor(k.shape))
            let (dw, du) = (context.tensor(plane), context.tensor(plane))
            withExtendedLifetime(w) {
                kernel.backward(
                    operands, checkpoints: checkpoints.pointer, final: final.pointer, dy: dy.pointer,
                    dState: dState.pointer, dk: dk.pointer, dv: dv.pointer, dwParts: dw.pointer, duParts: du.pointer,
                    threads: threads)
            }
            k.accumulate(dk, context)
            v.accumulate(dv, context)
            for (part, variable) in initial.enumerated() {
                guard let variable else { continue }
                let gradient = context.tensor(plane)
                gradient.copy(from: dState.pointer + part * plane.count, count: plane.count)
                variable.accumulate(gradient, context)
            }
            // d time_decay = dw · w, as w = −e^{time_decay}.
            for b in 0..<batch {
                let row = dw.pointer + b * channels
                Elementwise.multiply(row, w.pointer, into: row, count: channels, threads: threads)
            }
            self.postponeColumnSums(dw, into: decay)
            self.postponeColumnSums(du, into: first)
        }
        return (output, WeightedKeyValueState(p: parts[0], q: parts[1], o: parts[2]))
    }
}
