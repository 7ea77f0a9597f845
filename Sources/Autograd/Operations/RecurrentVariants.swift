import Kernels
import Tensors

/// Further recurrent cells over a chunk; shapes and conventions of ``Tape/lstm(_:_:_:hidden:cell:)``.
extension Tape {
    /// Recurrent highway network (arXiv 1607.03474), gates h, t and, unless coupled, c.
    ///
    /// - Parameters:
    ///   - gates: `[B·T, k·H]` of the first micro-layer, with its bias.
    ///   - layers: the recurrent weight of every micro-layer, all in one parameter.
    ///   - bias: `[L, k·H]`; the first row is in `gates`.
    public func highway(
        _ gates: Variable, _ layers: [RecurrentWeight], bias: ParameterUse, isCoupled: Bool, _ run: RecurrentRun,
        hidden: Variable?
    ) -> (output: Variable, hidden: Variable) {
        let (size, rows) = (layers[0].hiddenSize, run.batch * run.time)
        let s0 = hidden?.value
        let slabs = [gates.value] + layers.dropFirst().map { _ in context.tensor(gates.shape) }
        let states = layers.map { _ in context.tensor(Shape(rows, size)) }
        let final = context.tensor(Shape(run.batch, size))
        func kernel(_ packed: [RecurrentWeights], _ threads: ThreadPool) -> HighwayKernel {
            HighwayKernel(
                batch: run.batch, time: run.time, hidden: size, isCoupled: isCoupled, layers: packed,
                reversed: run.isReversed, threads: threads)
        }
        kernel(layers.map { $0.packedForForward(threads) }, threads).forward(
            gates: slabs.map(\.pointer), bias: bias.value.pointer, s0: s0?.pointer.constant,
            states: states.map(\.pointer), final: final.pointer)

        let y = states[layers.count - 1]
        let output = self.output(y, from: gates, hidden, hasParameters: true)
        let hiddenOut = Variable(final, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dHidden != nil else { return }
            let dHiddenIn = self.context.tensor(final.shape)
            kernel(layers.map { $0.packedForBackward(self.threads) }, self.threads).backward(
                gates: slabs.map(\.pointer), states: states.map(\.pointer), s0: s0?.pointer.constant,
                dy: dy?.pointer.constant, dFinal: dHidden?.pointer.constant, ds0: dHiddenIn.pointer)
            hidden?.accumulate(dHiddenIn, self.context)
            gates.accumulate(slabs[0], self.context)
            self.postponeRecurrentGradient([(slabs[0], layers[0].layout.gateCount)], layers[0], run, y: y, h0: s0)
            self.postpone { [context = self.context, threads = self.threads] in
                for layer in 1..<max(1, layers.count) {
                    layers[layer].addGradient(slabs[layer], states[layer - 1].pointer, context)
                    Reductions.columnSums(
                        slabs[layer].pointer, rows: rows, columns: gates.value.width, accumulate: true,
                        into: bias.gradient(context).pointer + layer * gates.value.width, threads: threads)
                }
            }
        }
        return (output, hiddenOut)
    }

    /// Leaky network with a time constant per unit: with ι = 1 / max(τ, 1), p = gates + h Whhᵀ,
    /// `h ← φ((1 − ι) h + ι p)`, or inside `(1 − ι) h + ι φ(p)`.
    ///
    /// - Parameters:
    ///   - timeConstants: τ, `[H]`, in steps. - trainsTimeConstants: false leaves their gradient zero.
    public func leaky(
        _ gates: Variable, _ weight: RecurrentWeight, timeConstants: ParameterUse, trainsTimeConstants: Bool,
        nonlinearity: LeakyKernel.Nonlinearity, isInside: Bool, _ run: RecurrentRun, hidden: Variable?
    ) -> (output: Variable, hidden: Variable) {
        let (size, saved, h0) = (weight.hiddenSize, gates.value, hidden?.value)
        let y = context.tensor(saved.shape)
        let final = context.tensor(Shape(run.batch, size))
        let rate = context.tensor(Shape(size))
        for i in 0..<size { rate.pointer[i] = 1 / max(timeConstants.value.pointer[i], 1) }
        LeakyKernel.forward(
            batch: run.batch, time: run.time, hidden: size, nonlinearity: nonlinearity, isInside: isInside,
            pre: saved.pointer, rate: rate.pointer, weights: weight.packedForForward(threads),
            h0: h0?.pointer.constant, y: y.pointer, hN: final.pointer, reversed: run.isReversed, threads: threads)

        let output = self.output(y, from: gates, hidden, hasParameters: true)
        let hiddenOut = Variable(final, needsGradient: output.needsGradient)
        recordRaw {
            let dHidden = hiddenOut.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dHidden != nil else { return }
            let dHiddenIn = self.context.tensor(final.shape)
            let rateParts = self.context.tensor(saved.shape)
            LeakyKernel.backward(
                batch: run.batch, time: run.time, hidden: size, nonlinearity: nonlinearity, isInside: isInside,
                pre: saved.pointer, rate: rate.pointer, rateParts: rateParts.pointer,
                weights: weight.packedForBackward(self.threads), y: y.pointer, h0: h0?.pointer.constant,
                dy: dy?.pointer.constant, dhN: dHidden?.pointer.constant, dh0: dHiddenIn.pointer,
                reversed: run.isReversed, threads: self.threads)
            hidden?.accumulate(dHiddenIn, self.context)
            gates.accumulate(saved, self.context)
            self.postponeRecurrentGradient([(saved, 1)], weight, run, y: y, h0: h0)
            guard trainsTimeConstants else { return }
            self.postpone { [context = self.context, threads = self.threads] in
                let sums = context.tensor(Shape(size))
                Reductions.columnSums(
                    rateParts.pointer, rows: rateParts.rows, columns: size, accumulate: false, into: sums.pointer,
                    threads: threads)
                let gradient = timeConstants.gradient(context).pointer
                for i in 0..<size where timeConstants.value.pointer[i] >= 1 {
                    gradient[i] -= sums.pointer[i] * rate.pointer[i] * rate.pointer[i]
                }
            }
        }
        return (output, hiddenOut)
    }

    /// The tokens of each sequence in the opposite order: `[B·T, D]`.
    public func reversedInTime(_ x: Variable, batch: Int, time: Int) -> Variable {
        require(x.value.rows == batch * time, "reversedInTime: x is \(x.shape); expected \(batch) × \(time) rows")
        let result = output(reversedRows(x.value, time: time), from: x)
        record(result) { dy in x.accumulate(self.reversedRows(dy, time: time), self.context) }
        return result
    }

    private func reversedRows(_ x: Tensor, time: Int) -> Tensor {
        let (result, width) = (context.tensor(x.shape), x.width)
        threads.run(x.rows / time) { row, _ in
            for t in 0..<time {
                (result.pointer + (row * time + t) * width).update(
                    from: x.pointer + (row * time + time - 1 - t) * width, count: width)
            }
        }
        return result
    }
}
