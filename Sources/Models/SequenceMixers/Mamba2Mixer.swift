import Autograd
import Kernels
import Tensors

/// Mamba-2: a state-space layer with one decay per head, run as a matrix memory (SSD).
///
/// `z, xBC, dt = W_in u`; `x, B, C = silu(conv(xBC))`; per head of width `P`, state `h [P, N]`:
/// `Δ = clamp(softplus(dt + dt_bias))`, `h_t = e^{−e^{A_log} Δ} h_{t−1} + Δ x Bᵀ`, `y = h C + D x`;
/// `out = W_out norm(y ⊙ silu(z))`. `B` and `C` are shared by the heads of a group.
///
/// Keys: `state_size` `N` (128), `conv_size` (4), `expand` (2), `head_size` `P` (64), `group_count` `G` (1), `norm` (true),
/// `norm_before_gate` (false), `dt_min` (0.001), `dt_max` (0.1), `dt_init_floor` (1e-4), bounds of `Δ`
/// `dt_limit_min` (0), `dt_limit_max` (none), `e^{A_log}` from `a_init_min` (1) to `a_init_max` (16), `bias` (false), `conv_bias` (true).
/// Parameters, with `I = expand·D`, `H = I/P`, `C = I + 2GN`: `mixer.in_proj.weight [I + C + H, D]` (rows z, x, B, C, dt),
/// `conv1d.weight [C, 1, W]`, `conv1d.bias [C]`, `dt_bias`, `A_log`, `D [H]`, `norm.weight [I]`, `out_proj.weight [D, I]`.
/// Carry: `conv [B, W−1, C]`, `ssm [B, H, P, N]`.
/// Cost per token: `2D(I + C + H) + 2WC + 2ID` for projections and convolution, `64(N·G + I) + 4IN` for the memory.
/// Source: arXiv 2405.21060; state-spaces/mamba, `mamba2.py`, `ssd_minimal.py`.
public final class Mamba2Mixer: SequenceMixer {
    public static let name = "mamba2"

    let innerWidth: Int
    let stateSize: Int
    let headSize: Int
    let groupCount: Int
    private let width: Int
    private let stepLimit: ClosedRange<Float>
    private let projection: ParameterUse
    private let projectionBias: ParameterUse?
    private let convolution: ShortConvolution
    private let stepBias, logRate, skip: ParameterUse
    private let norm: GatedNorm?
    private let output: Linear

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        width = builder.inputWidth
        stateSize = try reader.int("state_size", default: 128, in: 1...65536)
        let taps = try reader.int("conv_size", default: 4, in: 1...1024)
        innerWidth = width * (try reader.int("expand", default: 2, in: 1...64))
        headSize = try reader.int("head_size", default: 64, in: 1...65536)
        groupCount = try reader.int("group_count", default: 1, in: 1...65536)
        if innerWidth % headSize != 0 {
            throw reader.error("head_size", "\(headSize) does not divide the inner width \(innerWidth)")
        }
        let headCount = innerWidth / headSize
        if headCount % groupCount != 0 {
            throw reader.error("group_count", "\(groupCount) does not divide the \(headCount) heads")
        }
        let isNormalized = try reader.bool("norm", default: true)
        let isNormFirst = try reader.bool("norm_before_gate", default: false)
        let smallest = try reader.double("dt_min", default: 0.001, in: 1e-30...1e30)
        let largest = try reader.double("dt_max", default: 0.1, in: 1e-30...1e30)
        let floor = try reader.double("dt_init_floor", default: 1e-4, in: 1e-30...1e30)
        let shortest = try reader.double("dt_limit_min", default: 0, in: 0...1e30)
        let longest = try reader.optionalDouble("dt_limit_max", in: shortest...1e30)
        stepLimit = Float(shortest)...(longest.map { Float($0) } ?? .infinity)
        let slowest = try reader.double("a_init_min", default: 1, in: 1e-30...1e30)
        let fastest = try reader.double("a_init_max", default: 16, in: slowest...1e30)
        let hasBias = try reader.bool("bias", default: false)
        let hasConvolutionBias = try reader.bool("conv_bias", default: true)

        let channels = innerWidth + 2 * groupCount * stateSize
        let rows = innerWidth + channels + headCount
        projection = builder.matrix("mixer.in_proj.weight", rows, width)
        projectionBias = hasBias ? builder.vector("mixer.in_proj.bias", rows, .constant(0)) : nil
        convolution = ShortConvolution(
            "mixer.conv1d", carry: "conv", channels: channels, taps: taps, bias: hasConvolutionBias, silu: true,
            builder)
        stepBias = builder.vector(
            "mixer.dt_bias", headCount,
            .stepBias(low: Float(smallest), high: Float(largest), floor: Float(floor)))
        logRate = builder.vector(
            "mixer.A_log", headCount, .logUniform(low: Float(slowest), high: Float(fastest)))
        skip = builder.vector("mixer.D", headCount, .constant(1))
        norm =
            isNormalized
            ? GatedNorm(
                "mixer.norm",
                GatedNormShape(
                    groupCount: groupCount, groupWidth: innerWidth / groupCount, gate: .silu,
                    isGateFirst: !isNormFirst, epsilon: 1e-5), builder) : nil
        output = Linear("mixer.out_proj", innerWidth, width, bias: hasBias, builder)
    }

    var headCount: Int { innerWidth / headSize }
    private var channels: Int { innerWidth + 2 * groupCount * stateSize }

    public var outputWidth: Int { width }
    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { ["conv", "ssm"] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let pieces = tape.linear(
            x, weight: projection, bias: projectionBias, splitting: [innerWidth, channels, headCount])
        let (gate, rawSteps) = (pieces[0], pieces[2])
        let (xBC, history) = convolution(pieces[1], carry: carry, pass)
        let (steps, logDecay) = tape.decayGate(rawSteps, bias: stepBias, logRate: logRate, limit: stepLimit)
        let (y, state) = tape.matrixMemory(
            query: Columns(xBC, from: innerWidth + groupCount * stateSize), key: Columns(xBC, from: innerWidth),
            value: Columns(xBC), logDecay: logDecay, valueScale: steps, skip: skip,
            past: MatrixMemoryState(state: carry["ssm"]),
            MatrixMemoryShape(
                batch: pass.batch, time: pass.time, headCount: headCount, keyWidth: stateSize, valueWidth: headSize,
                queryHeadCount: groupCount, keyHeadCount: groupCount, isStateTransposed: true))
        let gated = norm.map { $0(y, gate: gate, tape) } ?? tape.swiGLU(gate: gate, up: y)
        return (output(gated, tape), [history, CarryTensor(name: "ssm", variable: state.state!)])
    }

    public func flopsPerToken(time: Int) -> Double {
        let projections = 2 * width * (2 * innerWidth + channels + headCount)
        let chunk = min(time, MatrixMemoryShape.chunk)
        let memory = chunk * (stateSize * groupCount + innerWidth) + 4 * innerWidth * stateSize
        return Double(projections + memory) + convolution.flopsPerToken
    }

    public var savedPerToken: Int {
        3 * innerWidth + 2 * channels + 6 * headCount + innerWidth * stateSize / MatrixMemoryShape.chunk
    }
}
