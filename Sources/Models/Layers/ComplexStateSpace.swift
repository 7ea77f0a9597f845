import Autograd
import Kernels
import Tensors

/// The core that S5 and LRU share: `P` complex states for all features, `x_t = λ x_{t−1} + B̂ u_t`, `y_t = Re(Ĉ x_t)`, as
/// two real products around a scan.
///
/// `parameters` yields `λ [2P]` (real parts, then imaginary ones), `B̂ [2P, D]` (rows alike) and `Ĉ` as `[D, 2P]`, the
/// imaginary half negated. Carry: `x [B, P·2]`, pairs.
/// 8·P·D FLOPs of products and 8·P of the scan per token.
struct ComplexStateSpace {
    let parameters: DerivedTensors
    let stateCount: Int
    let width: Int

    /// Shapes of what `parameters` yields.
    static func shapes(stateCount: Int, width: Int) -> [Shape] {
        [Shape(2 * stateCount), Shape(2 * stateCount, width), Shape(width, 2 * stateCount)]
    }

    func callAsFunction(_ u: Variable, carry: Carry, _ pass: Pass) -> (Variable, CarryTensor) {
        let tape = pass.tape
        let derived = tape.derived(parameters)
        let (x, state) = tape.complexScan(
            tape.linear(u, weight: derived[1]), decay: derived[0], batch: pass.batch, time: pass.time,
            state: carry["x"])
        return (tape.linear(x, weight: derived[2]), CarryTensor(name: "x", variable: state))
    }

    var flopsPerToken: Double { Double(8 * stateCount * (width + 1)) }
}

/// `g ⊙ σ(W g)` and its relatives behind S5 and LRU, `g = gelu(y)` in its tanh form.
enum GatedActivation: String, CaseIterable {
    /// `(W₁ g + b₁) ⊙ σ(W₂ g + b₂)`
    case fullGLU = "full_glu"
    /// `g ⊙ σ(W₂ g + b₂)`
    case halfGLU1 = "half_glu1"
    /// `y ⊙ σ(W₂ g + b₂)`
    case halfGLU2 = "half_glu2"
    /// `g`
    case gelu
}

/// A `GatedActivation` with its weights, `mixer.out1` (`W₁`, `b₁`) and `mixer.out2` (`W₂`, `b₂`), `[D, D]` and `[D]`, as
/// far as it has them.
struct GatedActivationLayer {
    private let kind: GatedActivation
    private let first, second: Linear?
    private let width: Int

    init(_ kind: GatedActivation, width: Int, _ builder: LayerBuilder) {
        let initializer = Initializer.normal(standardDeviation: 1 / Float(width).squareRoot())
        func linear(_ name: String) -> Linear {
            Linear("mixer.\(name)", width, width, bias: true, builder, initializer: initializer)
        }
        self.kind = kind
        self.width = width
        first = kind == .fullGLU ? linear("out1") : nil
        second = kind == .gelu ? nil : linear("out2")
    }

    func callAsFunction(_ y: Variable, _ tape: Tape) -> Variable {
        let g = tape.gelu(y, tanhForm: true)
        guard let second else { return g }
        return tape.glu(gate: second(g, tape), up: first?(g, tape) ?? (kind == .halfGLU2 ? y : g))
    }

    var flopsPerToken: Double { Double([first, second].count { $0 != nil } * 2 * width * width) }
}
