import Kernels
import Tensors

/// Parameters of a selective scan of `C` channels and `N` states with time steps of rank `r`.
public struct SelectiveScanParameters {
    /// `[C, r]` and `[C]`: from the low-rank time step to `dt`.
    public let timeWeight, timeBias: ParameterUse
    /// `[C, N]`, `A = −e^{logA}`.
    public let logA: ParameterUse
    /// `D [C]`
    public let skip: ParameterUse

    public init(timeWeight: ParameterUse, timeBias: ParameterUse, logA: ParameterUse, skip: ParameterUse) {
        (self.timeWeight, self.timeBias, self.logA, self.skip) = (timeWeight, timeBias, logA, skip)
    }
}

extension Tape {
    /// The selective scan of Mamba with its gate: `Δ = softplus(W dt' + b)`, `h = e^{ΔA} h + Δ x B`,
    /// `y = (Σ_n C_n h_n + D x) · silu(z)` (arXiv 2312.00752; see `SelectiveScan`).
    ///
    /// - Parameters:
    ///   - x, z: `[B·T, C]`. - projected: `[B·T, r + 2N]`, columns `dt'`, `B`, `C`.
    ///   - state: `[B, C·N]`; nil is zero.
    /// - Returns: `y [B·T, C]` and the state after the last step.
    public func selectiveScan(
        _ x: Variable, projected: Variable, gate z: Variable, _ parameters: SelectiveScanParameters, batch: Int,
        time: Int, state: Variable?
    ) -> (output: Variable, state: Variable) {
        let (channels, states, rank) = (
            parameters.logA.shape[0], parameters.logA.shape[1], parameters.timeWeight.shape[1]
        )
        let (rows, width) = (batch * time, rank + 2 * states)
        require(
            x.shape == Shape(rows, channels) && z.shape == x.shape && projected.shape == Shape(rows, width),
            "selectiveScan: x \(x.shape), z \(z.shape), projected \(projected.shape); expected [\(rows), \(channels)] twice and [\(rows), \(width)]"
        )
        let scan = SelectiveScan(batch: batch, time: time, channels: channels, states: states)
        let dt = context.tensor(Shape(rows, channels))
        GEMM.multiply(
            projected.value.pointer, lda: width, parameters.timeWeight.value.pointer, transposeB: true, ldb: rank,
            m: rows, n: channels, k: rank, accumulate: false, bias: parameters.timeBias.value.pointer.constant,
            into: dt.pointer, ldc: channels, threads: threads)
        let decay = context.tensor(Shape(scan.packedCount))
        scan.packDecay(parameters.logA.value.pointer, into: decay.pointer)
        let operands = SelectiveScan.Operands(
            x: x.value.pointer, dt: dt.pointer, z: z.value.pointer, inputs: projected.value.pointer + rank,
            outputs: projected.value.pointer + rank + states, projectedStride: width, decay: decay.pointer,
            skip: parameters.skip.value.pointer)
        let y = context.tensor(x.shape)
        let stateOut = context.tensor(Shape(batch, channels * states))
        let checkpoints = isRecording ? context.tensor(Shape(scan.checkpointCount)) : nil
        scan.forward(
            operands, stateIn: state?.value.pointer.constant, into: y.pointer, stateOut: stateOut.pointer,
            checkpoints: checkpoints?.pointer, threads: threads)

        let output = self.output(y, from: x, projected, z, state, hasParameters: true)
        let finalState = Variable(stateOut, needsGradient: output.needsGradient)
        recordRaw { [context, threads] in
            let dStateOut = finalState.takeGradient()
            var dy = output.takeGradient()
            if dy == nil, dStateOut != nil { dy = context.zeros(x.shape) }
            guard let dy, let checkpoints else { return }
            let (dx, dz) = (context.tensor(x.shape), context.tensor(x.shape))
            let ddt = context.tensor(x.shape)
            let dProjected = context.tensor(projected.shape)
            let dStateIn = context.tensor(Shape(batch, channels * states))
            let projectedParts = context.tensor(Shape(scan.groupCount, rows, 2 * states))
            let decayParts = context.tensor(Shape(batch, scan.packedCount))
            let skipParts = context.tensor(Shape(batch, channels))
            withExtendedLifetime((dt, decay)) {
                scan.backward(
                    operands, checkpoints: checkpoints.pointer, dy: dy.pointer, dStateOut: dStateOut?.pointer.constant,
                    into: SelectiveScan.Gradients(
                        dx: dx.pointer, ddt: ddt.pointer, dz: dz.pointer, projectedParts: projectedParts.pointer,
                        decayParts: decayParts.pointer, skipParts: skipParts.pointer),
                    dStateIn: dStateIn.pointer, threads: threads)
            }
            GEMM.multiply(
                ddt.pointer, lda: channels, parameters.timeWeight.value.pointer, ldb: rank, m: rows, n: rank,
                k: channels, accumulate: false, into: dProjected.pointer, ldc: width, threads: threads)
            scan.sumProjectedParts(
                projectedParts.pointer, into: dProjected.pointer + rank, stride: width, threads: threads)
            x.accumulate(dx, context)
            z.accumulate(dz, context)
            projected.accumulate(dProjected, context)
            state?.accumulate(dStateIn, context)

            self.postponeColumnSums(ddt, into: parameters.timeBias)
            self.postponeColumnSums(skipParts, into: parameters.skip)
            self.postpone {
                let (dWeight, isFresh) = parameters.timeWeight.writableGradient(context)
                GEMM.multiply(
                    ddt.pointer, transposeA: true, lda: channels, projected.value.pointer, ldb: width, m: channels,
                    n: rank, k: rows, accumulate: !isFresh, into: dWeight.pointer, ldc: rank, threads: threads)
                scan.addDecayGradient(
                    decayParts.pointer, decay: decay.pointer, to: parameters.logA.gradient(context).pointer)
            }
        }
        return (output, finalState)
    }
}
