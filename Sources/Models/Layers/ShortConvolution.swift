import Autograd
import Kernels
import Tensors

/// Causal depth-wise convolution over a few tokens, in front of a mixer's core: `y_t = b + Σ_k w_k ⊙ x_{t−W+1+k}`,
/// optionally followed by silu.
///
/// Names: `<name>.weight [C, 1, W]` (the last tap meets the current token), `<name>.bias [C]`; both drawn from
/// U(1/√W), torch's rule for a depth-wise convolution. Carry: the last `W − 1` inputs, `[B, W−1, C]`.
/// `C·W` parameters, `C` more with a bias; 2·C·W FLOPs a token.
struct ShortConvolution {
    /// Name of the carry.
    let carryName: String
    let usesSilu: Bool
    private let weight: ParameterUse
    private let bias: ParameterUse?

    init(
        _ name: String, carry carryName: String, channels: Int, taps: Int, bias hasBias: Bool, silu: Bool,
        _ builder: LayerBuilder
    ) {
        let bound = Initializer.uniform(bound: 1 / Float(taps).squareRoot())
        weight = builder.tensor("\(name).weight", Shape(channels, 1, taps), bound, decays: true)
        bias = hasBias ? builder.vector("\(name).bias", channels, bound) : nil
        self.carryName = carryName
        usesSilu = silu
    }

    /// - Returns: `[B·T, C]`, and the carry for the next chunk.
    func callAsFunction(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, CarryTensor) {
        let (y, past) = pass.tape.shortConvolution(
            x, past: carry[carryName], weight: weight, bias: bias, silu: usesSilu, batch: pass.batch, time: pass.time)
        return (y, CarryTensor(name: carryName, variable: past))
    }

    /// The same over whole sequences, with the middle tap on the current token.
    func centred(_ x: Variable, _ pass: Pass) -> Variable {
        pass.tape.shortConvolution(
            x, past: nil, weight: weight, bias: bias, silu: usesSilu, ahead: weight.shape[2] / 2, batch: pass.batch,
            time: pass.time
        ).output
    }

    /// Multiply-adds counted as two, forward, per token.
    var flopsPerToken: Double { Double(2 * weight.shape.count) }
}
