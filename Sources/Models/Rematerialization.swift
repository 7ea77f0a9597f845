import Autograd
import Tensors

extension Pass {
    /// The same pass on another tape.
    func on(_ tape: Tape) -> Pass {
        Pass(
            tape: tape, batch: batch, time: time, positionOffset: positionOffset, seed: seed, step: step,
            samples: samples, isTraining: isTraining)
    }
}

extension Tape {
    /// Runs `body` keeping only its inputs, and runs it again in the backward pass. Random draws are
    /// counter-based, so both runs have the same bits (arXiv 1604.06174). Its weight gradients run with
    /// the input gradients.
    func rematerialized(
        _ x: Variable, carry: Carry, _ pass: Pass, _ body: @escaping (Variable, Carry, Pass) -> (Variable, Carry)
    ) -> (Variable, Carry) {
        let forward = body(Variable(x.value), carry.map { $0.detached() }, pass.on(Tape(context, isRecording: false)))
        let output = Variable(forward.0.value, needsGradient: true)
        let carryOut = forward.1.map { $0.detached(needsGradient: true) }
        recordRaw {
            let gradient = output.takeGradient()
            let carryGradients = carryOut.map { $0.variable.takeGradient() }
            guard gradient != nil || carryGradients.contains(where: { $0 != nil }) else { return }
            let inner = Tape(self.context)
            let innerX = Variable(x.value, needsGradient: x.needsGradient)
            let innerCarry = carry.map { $0.detached(needsGradient: $0.variable.needsGradient) }
            let (innerOutput, innerCarryOut) = body(innerX, innerCarry, pass.on(inner))
            if let gradient { innerOutput.accumulate(gradient, self.context) }
            for (out, gradient) in zip(innerCarryOut, carryGradients) {
                if let gradient { out.variable.accumulate(gradient, self.context) }
            }
            inner.inputGradients()
            if let gradient = innerX.takeGradient() { x.accumulate(gradient, self.context) }
            for (outer, inner) in zip(carry, innerCarry) {
                if let gradient = inner.variable.takeGradient() { outer.variable.accumulate(gradient, self.context) }
            }
            // Postponed, they would keep what was recomputed alive until the whole unit has gone back,
            // and nothing would be saved.
            inner.weightGradients()
        }
        return (output, carryOut)
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
