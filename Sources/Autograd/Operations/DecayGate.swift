import Glibc
import Kernels
import Tensors

extension Tape {
    /// Step size and log-decay of a head from the token: `Δ = clamp(softplus(raw + bias))`, `g = −e^{logRate}·Δ`.
    ///
    /// - Parameters:
    ///   - raw: `[R, H]`.
    ///   - bias: `dt_bias [H]`. - logRate: `A_log [H]`.
    ///   - limit: bounds of `Δ`, with gradient 0 outside.
    /// - Returns: `Δ` and `g`, `[R, H]`. arXiv 2405.21060 (Mamba-2), 2412.06464 (gated DeltaNet).
    public func decayGate(
        _ raw: Variable, bias: ParameterUse, logRate: ParameterUse, limit: ClosedRange<Float> = 0...Float.infinity
    ) -> (step: Variable, logDecay: Variable) {
        let (rows, heads) = (raw.value.rows, raw.value.width)
        require(
            bias.shape.count == heads && logRate.shape.count == heads,
            "decayGate '\(logRate.parameter.name)': raw is \(raw.shape), bias \(bias.shape), rate \(logRate.shape)")
        let shifted = context.tensor(raw.shape)
        Elementwise.addBias(
            bias.value.pointer, to: raw.value.pointer, into: shifted.pointer, rows: rows, columns: heads,
            threads: threads)
        let step = context.tensor(raw.shape)
        let decay = context.tensor(raw.shape)
        Activations.softplus(shifted.pointer, into: step.pointer, count: step.count, threads: threads)
        let rates = (0..<heads).map { -exp(logRate.value.pointer[$0]) }
        for r in 0..<rows {
            for h in 0..<heads {
                let i = r * heads + h
                if step.pointer[i] < limit.lowerBound { step.pointer[i] = limit.lowerBound }
                if step.pointer[i] > limit.upperBound { step.pointer[i] = limit.upperBound }
                decay.pointer[i] = rates[h] * step.pointer[i]
            }
        }

        let stepOut = output(step, from: raw, hasParameters: true)
        let decayOut = output(decay, from: raw, hasParameters: true)
        recordRaw {
            let dStep = stepOut.takeGradient()
            let dDecay = decayOut.takeGradient()
            guard dStep != nil || dDecay != nil else { return }
            let dRaw = self.context.tensor(raw.shape)
            let dLogRate = self.context.tensor(raw.shape)
            Activations.forward(
                .sigmoid, shifted.pointer, into: dRaw.pointer, count: dRaw.count, threads: self.threads)
            for r in 0..<rows {
                for h in 0..<heads {
                    let i = r * heads + h
                    let throughDecay = dDecay?.pointer[i] ?? 0
                    dLogRate.pointer[i] = throughDecay * decay.pointer[i]
                    let isInside = step.pointer[i] > limit.lowerBound && step.pointer[i] < limit.upperBound
                    dRaw.pointer[i] *= isInside ? (dStep?.pointer[i] ?? 0) + throughDecay * rates[h] : 0
                }
            }
            raw.accumulate(dRaw, self.context)
            self.postponeColumnSums(dRaw, into: bias)
            self.postponeColumnSums(dLogRate, into: logRate)
        }
        return (stepOut, decayOut)
    }
}
