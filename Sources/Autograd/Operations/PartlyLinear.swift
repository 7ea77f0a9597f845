import Kernels
import Tensors

extension Tape {
    /// A recurrent network whose first units are tanh and whose other units are linear: `s_t = φ(pre_t + s_{t−1} Rᵀ)`.
    ///
    /// - Parameters:
    ///   - preactivations: `[B·T, S]`. - weight: `R [S, S]`, computed from parameters.
    ///   - tanhCount: the first units, `0...S`.
    ///   - state: `[B, S]`; nil is zero.
    /// - Returns: `s [B·T, S]` and the state after the last step.
    public func partlyLinear(
        _ preactivations: Variable, weight: Variable, tanhCount: Int, batch: Int, time: Int, state: Variable?
    ) -> (output: Variable, state: Variable) {
        let size = weight.shape[0]
        require(
            preactivations.shape == Shape(batch * time, size) && weight.shape[1] == size,
            "partlyLinear: preactivations \(preactivations.shape), weight \(weight.shape); expected [\(batch * time), S], [S, S]"
        )
        let nonlinearity = ElmanKernel.Nonlinearity.tanhThenLinear(tanhCount)
        let packed = RecurrentWeights(hidden: size, gateCount: 1, threads: threads)
        packed.packForForward(weight.value.pointer, threads: threads)
        let y = context.tensor(preactivations.shape)
        let final = context.tensor(Shape(batch, size))
        ElmanKernel.forward(
            batch: batch, time: time, hidden: size, nonlinearity: nonlinearity,
            preactivations: preactivations.value.pointer, weights: packed, h0: state?.value.pointer.constant,
            y: y.pointer, hN: final.pointer, threads: threads)

        let output = self.output(y, from: preactivations, weight, state)
        let finalState = Variable(final, needsGradient: output.needsGradient)
        recordRaw { [context, threads] in
            let dFinal = finalState.takeGradient()
            let dy = output.takeGradient()
            guard dy != nil || dFinal != nil else { return }
            let dPre = context.tensor(y.shape)
            let dState = context.tensor(final.shape)
            packed.packForBackward(weight.value.pointer, threads: threads)
            ElmanKernel.backward(
                batch: batch, time: time, hidden: size, nonlinearity: nonlinearity, weights: packed, y: y.pointer,
                dy: dy?.pointer.constant, dhN: dFinal?.pointer.constant, dPreactivations: dPre.pointer,
                dh0: dState.pointer, threads: threads)
            preactivations.accumulate(dPre, context)
            state?.accumulate(dState, context)
            let initial = state?.value
            self.postpone {
                let previous = context.tensor(y.shape)
                RecurrentSequence.previousStates(
                    y.pointer, h0: initial?.pointer.constant, batch: batch, time: time, hidden: size, reversed: false,
                    into: previous.pointer, threads: threads)
                let (dWeight, isFresh) = weight.writableGradient(context)
                GEMM.multiply(
                    dPre.pointer, transposeA: true, lda: size, previous.pointer, ldb: size, m: size, n: size,
                    k: batch * time, accumulate: !isFresh, into: dWeight.pointer, ldc: size, threads: threads)
            }
        }
        return (output, finalState)
    }

    /// Some neighbouring columns, `[R, range.count]` of `x [R, C]`.
    public func columns(_ x: Variable, _ range: Range<Int>) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        require(range.upperBound <= width, "columns: \(range) of x \(x.shape)")
        let y = context.tensor(Shape(rows, range.count))
        for row in 0..<rows {
            (y.pointer + row * range.count).update(
                from: x.value.pointer + row * width + range.lowerBound, count: range.count)
        }
        let result = output(y, from: x)
        record(result) { [context] dy in
            let (dx, isFresh) = x.writableGradient(context)
            if isFresh { dx.fill(0) }
            for row in 0..<rows {
                let target = dx.pointer + row * width + range.lowerBound
                for column in 0..<range.count { target[column] += dy.pointer[row * range.count + column] }
            }
        }
        return result
    }
}
