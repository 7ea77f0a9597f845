import Autograd
import Kernels
import Tensors

/// A feature map of linear attention, the same for every head.
///
/// | `feature_map` | φ(x), width d | parameters | width |
/// | --- | --- | --- | --- |
/// | `identity` | `x` | | d |
/// | `elu` | `elu(x) + 1` | | d |
/// | `relu` | `max(x, 0)` | | d |
/// | `elementwise_product` | `(W₁x + b₁) ⊙ (W₂x + b₂)` | `layer1`, `layer2` with bias | d |
/// | `t2r` | `relu(Wx)` (arXiv 2103.13076) | `layer` | d |
/// | `hedgehog` | `softmax([2y, −2y])`, `y = Wx + b`, `W = I` at the start (arXiv 2402.04347) | `layer` with bias | 2d |
/// | `taylor` | `1 + a + a²/2` for `a = q·k/√d` (arXiv 2402.18668) | | 1 + d + d(d+1)/2 |
struct FeatureMap {
    enum Kind: String, CaseIterable {
        case identity, elu, relu
        case elementwiseProduct = "elementwise_product"
        case t2r, hedgehog, taylor
    }

    private let kind: Kind
    private let headWidth: Int
    private let layers: [Linear]

    init(_ kind: Kind, _ name: String, headWidth d: Int, _ builder: LayerBuilder) {
        self.kind = kind
        headWidth = d
        switch kind {
        case .identity, .elu, .relu, .taylor: layers = []
        case .elementwiseProduct:
            layers = ["layer1", "layer2"].map { Linear("\(name).\($0)", d, d, bias: true, builder) }
        case .t2r: layers = [Linear("\(name).layer", d, d, bias: false, builder)]
        case .hedgehog:
            let identity = (0..<d * d).map { Float($0 % (d + 1) == 0 ? 1 : 0) }
            layers = [Linear("\(name).layer", d, d, bias: true, builder, initializer: .values(identity))]
        }
    }

    /// Width of a head's features.
    var featureWidth: Int {
        switch kind {
        case .hedgehog: FeatureMaps.Map.signedSoftmax.featureWidth(headWidth)
        case .taylor: MatrixMemoryShape.taylorWidth(headWidth)
        default: headWidth
        }
    }

    /// Whether products of features already contain the scale of attention.
    var isScaled: Bool { kind == .taylor }

    /// Width of a head's channels where the memory itself makes the features of them.
    var rawWidth: Int? { kind == .taylor ? headWidth : nil }

    /// `[R, H·d]` to `[R, H·featureWidth]`, or to itself where there is a `rawWidth`.
    func callAsFunction(_ x: Variable, _ tape: Tape) -> Variable {
        switch kind {
        case .identity, .taylor: return x
        case .elu: return tape.featureMap(.eluPlusOne, x, headWidth: headWidth)
        case .relu: return tape.activation(.relu, x)
        case .elementwiseProduct:
            if layers.allSatisfy(\.isPlain) { return tape.linearProduct(x, layers.map { ($0.weight, $0.bias!) }) }
            return perHead(x, tape) { tape.multiply(layers[0]($0, tape), layers[1]($0, tape)) }
        case .t2r: return perHead(x, tape) { tape.activation(.relu, layers[0]($0, tape)) }
        case .hedgehog:
            return perHead(x, tape) { tape.featureMap(.signedSoftmax, layers[0]($0, tape), headWidth: headWidth) }
        }
    }

    /// Applies `body` to heads as rows of their own.
    private func perHead(_ x: Variable, _ tape: Tape, _ body: (Variable) -> Variable) -> Variable {
        let y = body(tape.reshaped(x, Shape(x.value.count / headWidth, headWidth)))
        return tape.reshaped(y, Shape(x.value.rows, x.value.width / headWidth * featureWidth))
    }

    /// Multiply-adds counted as two, forward, per head and token.
    var flopsPerHead: Double { Double(layers.count * 2 * headWidth * headWidth) }
}
