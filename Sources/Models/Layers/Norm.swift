import Autograd
import Tensors

public enum NormKind: String, CaseIterable, Sendable {
    case rmsNorm = "rmsnorm"
    case layerNorm = "layernorm"
    case none
}

/// Where the norms of a block stand round each of its two halves `f`.
public enum NormPlacement: String, CaseIterable, Sendable {
    /// `x + f(N x)`.
    case pre
    /// `N(x + f(x))`, arXiv 1706.03762.
    case post
    /// `N(x + f(N x))`, arXiv 2502.05171.
    case sandwich
}

/// RMSNorm (arXiv 1910.07467) or LayerNorm (arXiv 1607.06450) over the last axis, or nothing.
public struct Norm {
    let kind: NormKind
    let epsilon: Float
    let weight: ParameterUse?
    let bias: ParameterUse?

    init(_ kind: NormKind, name: String, width: Int, epsilon: Double, _ builder: LayerBuilder) {
        self.kind = kind
        self.epsilon = Float(epsilon)
        weight = kind == .none ? nil : builder.vector("\(name).weight", width, .constant(1))
        bias = kind == .layerNorm ? builder.vector("\(name).bias", width, .constant(0)) : nil
    }

    func callAsFunction(_ x: Variable, _ tape: Tape) -> Variable {
        switch kind {
        case .none: return x
        case .rmsNorm: return tape.rmsNorm(x, weight: weight!, epsilon: epsilon)
        case .layerNorm: return tape.layerNorm(x, weight: weight!, bias: bias!, epsilon: epsilon)
        }
    }
}
