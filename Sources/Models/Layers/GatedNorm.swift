import Autograd
import Kernels

/// A norm over each head (or group of channels) of a mixer's output, with an optional gate. Weight `<name>.weight`,
/// ones at the start, `[width of a head]` when shared by the heads, else `[all channels]`.
struct GatedNorm {
    private let shape: GatedNormShape
    private let weight: ParameterUse

    init(_ name: String, _ shape: GatedNormShape, _ builder: LayerBuilder) {
        self.shape = shape
        weight = builder.vector("\(name).weight", shape.weightCount, .constant(1))
    }

    func callAsFunction(_ x: Variable, gate: Variable? = nil, _ tape: Tape) -> Variable {
        tape.gatedNorm(x, gate: gate, weight: weight, shape)
    }
}
