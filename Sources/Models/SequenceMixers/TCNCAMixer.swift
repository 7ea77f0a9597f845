import Autograd
import Kernels
import Tensors

/// TCNCA: gated attention within chunks, with positions from a stack of dilated causal convolutions.
///
/// The unit, its keys, names and carry are those of `MegaUnit`; `move` starts from `y⁰ = x̂` and adds, for layer `i`,
/// `y^{i+1} = y^i + silu(conv_i(y^i) + b_i)` with `K` taps that lie `f^i` tokens apart, then `omega x̂`. It sees `1 + (K − 1)(f^n −
/// 1)/(f − 1)` tokens, without holes when `f ≤ K`.
///
/// Keys besides: `tcn_layers` n (4), `tcn_kernel` K (3), `tcn_dilation` f (2).
/// Names besides: `mixer.move.convs.{i}.weight [D, 1, K]`, `.bias [D]`, `mixer.move.omega [D]`; `nD(K + 1) + D` parameters.
/// Carry besides: `conv_{i} [B, (K−1)f^i, D]`.
/// Cost per token: 2 FLOPs a weight, `(Z + h)(C + 1)` for attention; state `D(K − 1)Σf^i + C·(Z + h)` floats.
/// Source: arXiv 2312.05605 names the parts; the details of the stack are this implementation's.
public final class TCNCAMixer: SequenceMixer {
    public static let name = "tcnca"
    private let unit: MegaUnit
    private let layers: [(weight: ParameterUse, bias: ParameterUse, dilation: Int)]
    private let omega: ParameterUse

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        let layerCount = try reader.int("tcn_layers", default: 4, in: 1...16)
        let taps = try reader.int("tcn_kernel", default: 3, in: 2...64)
        let factor = try reader.int("tcn_dilation", default: 2, in: 1...16)
        let bound = Initializer.uniform(bound: 1 / Float(taps).squareRoot())
        var dilation = 1
        layers = (0..<layerCount).map { i in
            defer { dilation *= factor }
            return (
                builder.tensor("mixer.move.convs.\(i).weight", Shape(width, 1, taps), bound, decays: true),
                builder.vector("mixer.move.convs.\(i).bias", width, bound), dilation
            )
        }
        omega = builder.vector("mixer.move.omega", width, .normal(standardDeviation: 1))
        unit = try MegaUnit(reader, builder)
    }

    public var outputWidth: Int { unit.width }
    public var chunkingObstacle: String? { nil }
    /// Keys and values stay with their batch, whose first token starts a chunk.
    public var streamStateNames: [String] { layers.indices.map { "conv_\($0)" } }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        return unit.forward(x, carry: carry, pass) { normed in
            var y = normed
            var pasts: Carry = []
            for (i, layer) in layers.enumerated() {
                let (z, past) = tape.dilatedConvolution(
                    y, past: carry["conv_\(i)"], weight: layer.weight, bias: layer.bias, dilation: layer.dilation,
                    batch: pass.batch, time: pass.time)
                y = tape.add(y, z)
                pasts.append(CarryTensor(name: "conv_\(i)", variable: past))
            }
            return (tape.add(y, tape.scaleColumns(normed, by: omega)), pasts)
        }
    }

    public func flopsPerToken(time: Int) -> Double {
        unit.flopsPerToken(time: time) + layers.reduce(0) { $0 + Double(2 * $1.weight.shape.count) }
    }

    public var savedPerToken: Int { unit.savedPerToken + 2 * layers.count * unit.width }
}
