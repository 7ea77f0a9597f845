import Autograd
import Kernels

/// What stands behind a state space in its published form: a nonlinearity, then a linear unit gated by its own second
/// half, `(W₁ g + b₁) ⊙ σ(W₂ g + b₂)` with `g = gelu(y)`.
///
/// Names: `<name>.weight [2D, D]` (rows of `W₁`, then of `W₂`) and `<name>.bias [2D]`, drawn from U(1/√D).
/// 2D² + 2D parameters, 4D² FLOPs a token.
struct GatedOutput {
    private let weight, bias: ParameterUse
    private let width: Int

    init(_ name: String, width: Int, _ builder: LayerBuilder) {
        let bound = Initializer.uniform(bound: 1 / Float(width).squareRoot())
        weight = builder.matrix("\(name).weight", 2 * width, width, bound)
        bias = builder.vector("\(name).bias", 2 * width, bound)
        self.width = width
    }

    func callAsFunction(_ y: Variable, _ tape: Tape) -> Variable {
        let halves = tape.linear(
            tape.gelu(y, tanhForm: false), weight: weight, bias: bias, splitting: [width, width])
        return tape.glu(gate: halves[1], up: halves[0])
    }

    var flopsPerToken: Double { Double(4 * width * width) }
}
