import Autograd
import Tensors

extension Tape {
    /// Runs `body` keeping only its inputs, and runs it again in the backward pass. Random draws are
    /// counter-based, so both runs have the same bits (arXiv 1604.06174). Its weight gradients run with
    /// the input gradients.
    func rematerialized(
        _ inputs: [Variable], carry: Carry, _ pass: Pass,
        _ body: @escaping ([Variable], Carry, Pass) -> ([Variable], Carry)
    ) -> ([Variable], Carry) {
        let forward = body(
            inputs.map { Variable($0.value) }, carry.map { $0.detached() }, pass.on(Tape(context, isRecording: false)))
        let outputs = forward.0.map { Variable($0.value, needsGradient: true) }
        let carryOut = forward.1.map { $0.detached(needsGradient: true) }
        recordRaw {
            let gradients = outputs.map { $0.takeGradient() }
            let carryGradients = carryOut.map { $0.variable.takeGradient() }
            guard (gradients + carryGradients).contains(where: { $0 != nil }) else { return }
            let inner = Tape(self.context)
            let innerInputs = inputs.map { Variable($0.value, needsGradient: $0.needsGradient) }
            let innerCarry = carry.map { $0.detached(needsGradient: $0.variable.needsGradient) }
            let (innerOutputs, innerCarryOut) = body(innerInputs, innerCarry, pass.on(inner))
            for (output, gradient) in zip(innerOutputs, gradients) {
                if let gradient { output.accumulate(gradient, self.context) }
            }
            for (out, gradient) in zip(innerCarryOut, carryGradients) {
                if let gradient { out.variable.accumulate(gradient, self.context) }
            }
            inner.inputGradients()
            for (outer, inner) in zip(inputs, innerInputs) {
                if let gradient = inner.takeGradient() { outer.accumulate(gradient, self.context) }
            }
            for (outer, inner) in zip(carry, innerCarry) {
                if let gradient = inner.variable.takeGradient() { outer.variable.accumulate(gradient, self.context) }
            }
            // Postponed, they would keep what was recomputed alive until the whole unit has gone back,
            // and nothing would be saved.
            inner.weightGradients()
        }
        return (outputs, carryOut)
    }
}

extension CarryTensor {
    /// The same values, cut off from the tape that made them.
    public func detached(needsGradient: Bool = false) -> CarryTensor {
        CarryTensor(
            name: name, variable: Variable(variable.value, needsGradient: needsGradient),
            crossesBatches: crossesBatches)
    }
}
