import Glibc
import Kernels
import Tensors

/// The parameters of a multi-dimensional damped moving average, `[D, N, 1]`, `gamma [D, N]`, `omega [D]`.
public struct MovingAverageParameters {
    public let delta, alpha, beta, gamma, omega: ParameterUse

    public init(
        delta: ParameterUse, alpha: ParameterUse, beta: ParameterUse, gamma: ParameterUse, omega: ParameterUse
    ) {
        (self.delta, self.alpha, self.beta, self.gamma, self.omega) = (delta, alpha, beta, gamma, omega)
    }

    var channels: Int { gamma.shape[0] }
    var states: Int { gamma.shape[1] }

    /// `p = σ(delta)`, `decay = 1 − p σ(alpha)`, `input = p·beta`, `output = gamma / √N`, each `[N, D]`, then `omega`.
    func writeCoefficients(to target: UnsafeMutablePointer<Float>) {
        let (D, N) = (channels, states), size = D * N, scale = 1 / Float(N).squareRoot()
        // Pointers before the loops: a look-up through a parameter's use costs more than the arithmetic.
        let (delta, alpha) = (delta.value.pointer, alpha.value.pointer)
        let (beta, gamma) = (beta.value.pointer, gamma.value.pointer)
        for d in 0..<D {
            for n in 0..<N {
                let i = d * N + n, at = n * D + d, p = Self.sigmoid(delta[i])
                target[at] = 1 - p * Self.sigmoid(alpha[i])
                target[size + at] = p * beta[i]
                target[2 * size + at] = gamma[i] * scale
            }
        }
        (target + 3 * size).update(from: omega.value.pointer, count: D)
    }

    /// Adds the gradients that follow from those of the coefficients.
    func addGradients(_ source: UnsafePointer<Float>, _ context: ComputeContext) {
        let (D, N) = (channels, states), size = D * N, scale = 1 / Float(N).squareRoot()
        let (dDelta, dAlpha) = (delta.gradient(context).pointer, alpha.gradient(context).pointer)
        let (dBeta, dGamma) = (beta.gradient(context).pointer, gamma.gradient(context).pointer)
        let dOmega = omega.gradient(context).pointer
        let (delta, alpha, beta) = (delta.value.pointer, alpha.value.pointer, beta.value.pointer)
        for d in 0..<D {
            for n in 0..<N {
                let i = d * N + n, at = n * D + d
                let (dDecay, dInput) = (source[at], source[size + at])
                let p = Self.sigmoid(delta[i]), damping = Self.sigmoid(alpha[i])
                dDelta[i] += (beta[i] * dInput - damping * dDecay) * p * (1 - p)
                dAlpha[i] -= p * dDecay * damping * (1 - damping)
                dBeta[i] += p * dInput
                dGamma[i] += source[2 * size + at] * scale
            }
            dOmega[d] += source[3 * size + d]
        }
    }

    private static func sigmoid(_ x: Float) -> Float { 1 / (1 + exp(-x)) }
}

extension Tape {
    /// `y_t = Σ_n output_n h_t,n + omega x_t`, `h_t,n = decay_n h_{t−1,n} + input_n x_t` per channel; see `MovingAverage`.
    ///
    /// - Parameters:
    ///   - x: `[B·T, D]`. - state: `[B, D, N]`; nil: zero.
    /// - Returns: `[B·T, D]`, and the state after the chunk.
    public func movingAverage(
        _ x: Variable, _ parameters: MovingAverageParameters, state: Variable?, batch: Int, time: Int
    ) -> (output: Variable, state: Variable) {
        let kernel = MovingAverage(batch: batch, time: time, channels: parameters.channels, states: parameters.states)
        require(
            x.shape == Shape(batch * time, kernel.channels),
            "movingAverage: x is \(x.shape), gamma \(parameters.gamma.shape)")
        let coefficients = context.tensor(Shape(kernel.coefficientCount))
        parameters.writeCoefficients(to: coefficients.pointer)
        let y = context.tensor(x.shape)
        let final = context.tensor(Shape(batch, kernel.channels, kernel.states))
        let kept = isRecording ? context.tensor(Shape(kernel.keptCount)) : nil
        kernel.forward(
            x.value.pointer, coefficients: coefficients.pointer, state: state?.value.pointer.constant, into: y.pointer,
            finalState: final.pointer, kept: kept?.pointer, threads: threads)
        let result = output(y, from: x, state, hasParameters: true)
        let stateOut = Variable(final, needsGradient: result.needsGradient)
        recordRaw {
            let dFinal = stateOut.takeGradient()
            let arrived = result.takeGradient()
            guard arrived != nil || dFinal != nil else { return }
            let dy = arrived ?? self.context.zeros(y.shape)
            let (dx, dState) = (self.context.tensor(x.shape), self.context.tensor(final.shape))
            let perSample = self.context.tensor(Shape(batch, kernel.coefficientCount))
            kernel.backward(
                dy.pointer, x: x.value.pointer, coefficients: coefficients.pointer, kept: kept!.pointer,
                dFinalState: dFinal?.pointer.constant, into: dx.pointer, dState: dState.pointer,
                dCoefficients: perSample.pointer, threads: self.threads)
            x.accumulate(dx, self.context)
            state?.accumulate(dState, self.context)
            self.postpone { [context = self.context, threads = self.threads] in
                let sum = context.tensor(coefficients.shape)
                Reductions.columnSums(
                    perSample.pointer, rows: batch, columns: sum.count, accumulate: false, into: sum.pointer,
                    threads: threads)
                parameters.addGradients(sum.pointer, context)
            }
        }
        return (result, stateOut)
    }
}
