import Autograd
import Kernels

/// A norm over each head (or group of channels) of a mixer's output, with an optional gate. Weight `<name>.weight`,
/// `[width of a head]` when shared by the heads, else `[all channels]`; ones at the start, or zeros where the paper's norm
/// is scaled by 1 + weight.
struct GatedNorm {
    private let shape: GatedNormShape
    private let weight: ParameterUse
    private let addsOne: Bool

    init(_ name: String, _ shape: GatedNormShape, addsOne: Bool = false, _ builder: LayerBuilder) {
        self.shape = shape
        self.addsOne = addsOne
        weight = builder.vector("\(name).weight", shape.weightCount, .constant(addsOne ? 0 : 1))
    }

    func callAsFunction(_ x: Variable, gate: Variable? = nil, _ tape: Tape) -> Variable {
        tape.gatedNorm(x, gate: gate, weight: weight, addsOne: addsOne, shape)
    }
}
