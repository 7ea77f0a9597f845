import Autograd
import Glibc
import Tensors

/// Mamba: a state space whose step size, input and read-out depend on the token.
///
/// With `C = expand·D` channels, `N` states a channel and time steps of rank `r`:
///
///     x, z = W_in u;   x = silu(conv(x));   dt', B, C = W_x x;   Δ = softplus(W_dt dt' + b)
///     h = e^{ΔA} h + Δ x B;   y = Σ_n C_n h_n + D x;   out = W_out (y ⊙ silu(z));   A = −e^{A_log}
///
/// Keys: `d_state` N (16), `d_conv` taps K (4), `expand` (2), `dt_rank` r (`auto`: ⌈D/16⌉), `dt_min` (1e-3),
/// `dt_max` (0.1), `dt_init_floor` (1e-4), `conv_bias` (true).
/// Parameters under `mixer.`: `in_proj.weight [2C, D]` (rows x, z), `conv1d.weight [C, 1, K]`, `.bias [C]`,
/// `x_proj.weight [r+2N, C]` (rows dt', B, C), `dt_proj.weight [C, r]`, `.bias [C]`, `A_log [C, N]`, `D [C]`,
/// `out_proj.weight [D, C]`. No weight decay on `A_log`, `D` and biases.
/// Carry: `conv [B, K−1, C]`, the inputs of the convolution, and `ssm [B, C·N]`; both zero at first.
/// Cost per token: 6·C·D + 2·K·C + 2·C·(2r + 2N) FLOPs of products, about 9·N·C of the scan and N·C exponentials; linear in T.
/// Source: arXiv 2312.00752; state-spaces/mamba, `mamba_simple.py`.
public final class MambaMixer: SequenceMixer {
    public static let name = "mamba"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["conv", "ssm"]
    private let channelCount, stateSize, rank: Int
    private let inputWeight: ParameterUse
    private let convolution: ShortConvolution
    private let projection, output: Linear
    private let scan: SelectiveScanParameters

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        stateSize = try reader.int("d_state", default: 16, in: 1...4096)
        let taps = try reader.int("d_conv", default: 4, in: 2...64)
        channelCount = try reader.int("expand", default: 2, in: 1...64) * width
        rank = try reader.intOrAuto("dt_rank", in: 1...65_536) ?? (width + 15) / 16
        let steps = try StepRange(reader)
        let floor = try reader.double("dt_init_floor", default: 1e-4, above: 0)
        let hasConvolutionBias = try reader.bool("conv_bias", default: true)
        outputWidth = width

        func bound(_ fanIn: Int) -> Initializer { .uniform(bound: 1 / Float(fanIn).squareRoot()) }
        inputWeight = builder.matrix("mixer.in_proj.weight", 2 * channelCount, width, bound(width))
        convolution = ShortConvolution(
            "mixer.conv1d", carry: "conv", channels: channelCount, taps: taps, bias: hasConvolutionBias, silu: true,
            builder)
        projection = Linear(
            "mixer.x_proj", channelCount, rank + 2 * stateSize, bias: false, builder, initializer: bound(channelCount))
        let rates = (0..<channelCount * stateSize).map { [stateSize] in Float($0 % stateSize + 1) }
        scan = SelectiveScanParameters(
            timeWeight: builder.matrix("mixer.dt_proj.weight", channelCount, rank, bound(rank)),
            timeBias: builder.vector("mixer.dt_proj.bias", channelCount, steps.softplusBias(floor: floor)),
            logA: builder.tensor(
                "mixer.A_log", Shape(channelCount, stateSize), .values(rates.map(log)), decays: false),
            skip: builder.vector("mixer.D", channelCount, .constant(1)))
        output = Linear(
            "mixer.out_proj", channelCount, width, bias: false, builder, initializer: bound(channelCount))
    }

    public func forward(_ u: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let halves = tape.linear(u, weight: inputWeight, splitting: [channelCount, channelCount])
        let (x, past) = convolution(halves[0], carry: carry, pass)
        let (y, state) = tape.selectiveScan(
            x, projected: projection(x, tape), gate: halves[1], scan, batch: pass.batch, time: pass.time,
            state: carry["ssm"])
        return (output(y, tape), [past, CarryTensor(name: "ssm", variable: state)])
    }

    public func flopsPerToken(time: Int) -> Double {
        let products = 6 * outputWidth + 4 * (rank + stateSize)
        return Double(channelCount * (products + 9 * stateSize)) + convolution.flopsPerToken
    }

    public var savedPerToken: Int {
        // x before and after the convolution, z, dt, y, and a state every 16 steps.
        channelCount * 5 + channelCount * stateSize / 16 + rank + 2 * stateSize
    }
}
