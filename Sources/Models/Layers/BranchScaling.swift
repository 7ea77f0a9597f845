import Autograd
import Kernels
import Tensors

/// Factors on the two branches of a block and on its output, one for each channel (arXiv 2512.19941, blocks of Raptor).
///
/// - `layer_scale: s` (arXiv 2103.17239): the branches are multiplied by vectors that start at `s`. Names `ls1.gamma [D]`
///   and `ls2.gamma [D]`.
/// - `depth_conditioning: true`: with `t` the number of the layer in the unrolled model, counted from 1,
///   `(t₁, t₂, t₃) = 1 + W₂ silu(W₁ t + b₁) + b₂`; `t₁` and `t₂` multiply the branches, `t₃` the output. It is how a shared
///   block knows where it is. Names `depth.in_proj.{weight [16, 1], bias}`, `depth.out_proj.{weight [3D, 16], bias}`.
struct BranchScaling {
    private let scales: [ParameterUse]
    private let conditioning: (input: Linear, output: Linear)?
    private let depth: Float
    private let width: Int
    private let branchCount: Int

    /// Width of the hidden layer that knows the depth.
    private static let hiddenSize = 16

    /// - Returns: nil when the block asks for neither.
    init?(
        _ reader: ConfigurationReader, _ builder: LayerBuilder, branchCount: Int
    ) throws(ConfigurationError) {
        let scale = try reader.optionalDouble("layer_scale", above: 0)
        let isConditioned = try reader.bool("depth_conditioning", default: false)
        guard scale != nil || isConditioned else { return nil }
        width = builder.inputWidth
        self.branchCount = branchCount
        depth = Float(builder.layerIndex)
        scales =
            scale.map { scale in
                (1...branchCount).map { builder.vector("ls\($0).gamma", builder.inputWidth, .constant(Float(scale))) }
            } ?? []
        conditioning =
            isConditioned
            ? (
                input: Linear(
                    "depth.in_proj", 1, Self.hiddenSize, bias: .uniform(bound: 1), builder,
                    initializer: .uniform(bound: 1)),
                output: Linear(
                    "depth.out_proj", Self.hiddenSize, 3 * builder.inputWidth, bias: .normal(standardDeviation: 1e-4),
                    builder, initializer: .normal(standardDeviation: 1e-4))
            ) : nil
    }

    /// Floats kept per token: what each factor is multiplied with.
    var savedPerToken: Int { (scales.count + (conditioning == nil ? 0 : branchCount + 1)) * width }

    /// The factors of one pass through the block.
    struct Factors {
        fileprivate let scaling: BranchScaling
        /// `[1, 3D]`, less one.
        fileprivate let depth: Variable?

        /// - Parameter index: 0 the mixer's branch, 1 that of the MLP.
        func branch(_ x: Variable, _ index: Int, _ tape: Tape) -> Variable {
            let x = scaling.scales.isEmpty ? x : tape.scaleColumns(x, by: scaling.scales[index])
            return modulated(x, index, tape)
        }

        func output(_ x: Variable, _ tape: Tape) -> Variable { modulated(x, 2, tape) }

        private func modulated(_ x: Variable, _ part: Int, _ tape: Tape) -> Variable {
            depth.map { tape.modulatedColumns(x, by: $0, first: part * scaling.width) } ?? x
        }
    }

    func factors(_ tape: Tape) -> Factors {
        guard let conditioning else { return Factors(scaling: self, depth: nil) }
        let t = tape.context.tensor(Shape(1, 1))
        t.fill(depth)
        let hidden = tape.activation(.silu, conditioning.input(Variable(t), tape))
        return Factors(scaling: self, depth: conditioning.output(hidden, tape))
    }
}
