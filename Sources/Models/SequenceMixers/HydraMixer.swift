import Autograd
import Kernels
import Tensors

/// Hydra: two Mamba-2 memories, one from each side, and a free diagonal between them. Not causal.
///
/// `z, xBC, dt = W_in u`; `x, B→, C→, B←, C← = silu(conv(xBC))`, the convolution centred on its token; `y→`, `y←` as in
/// `Mamba2Mixer` without skip, the second over reversed time, both moved one token onwards;
/// `y = y→ + y← + x ⊙ (fc_D x + D)` per head; `out = W_out (RMSNorm(y) ⊙ silu(z))`.
///
/// Keys: `state_size` `N` (64), `conv_size` (7, odd), `expand` (2), `head_size` `P` (64), `group_count` `G` (1),
/// `dt_min` (0.001), `dt_max` (0.1), `dt_init_floor` (1e-4).
/// Parameters, with `I = expand·D`, `H = I/P`, `C = I + 4GN`: `mixer.in_proj.weight [I + C + 2H, D]` (rows z, x, B→, C→, B←, C←,
/// dt→, dt←), `conv1d.weight [C, 1, W]`, `conv1d.bias [C]`, `dt_bias`, `A_log` (0), `D [H]`, `fc_D.weight [H, I]`, `norm.weight [I]`,
/// `out_proj.weight [D, I]`: `D(2I + C + 2H) + (W + 1)C + 3H + HI + I`.
/// No carry: needs whole sequences.
/// Cost per token: `2D(2I + C + 2H) + 2WC + 2HI`, and twice `64(GN + I) + 4IN`.
/// Source: arXiv 2407.09941; goombalab/hydra.
public final class HydraMixer: SequenceMixer {
    public static let name = "hydra"

    private let width, innerWidth, stateSize, headSize, groupCount, taps: Int
    private let projection: ParameterUse
    private let convolution: ShortConvolution
    private let stepBias, logRate: ParameterUse
    private let diagonal: ParameterUse
    private let skip: ParameterUse
    private let norm: GatedNorm
    private let output: Linear

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        width = builder.inputWidth
        stateSize = try reader.int("state_size", default: 64, in: 1...65536)
        taps = try reader.int("conv_size", default: 7, in: 1...1023)
        if taps % 2 == 0 { throw reader.error("conv_size", "\(taps) has no middle; choose an odd number") }
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
        let smallest = try reader.double("dt_min", default: 0.001, in: 1e-30...1e30)
        let largest = try reader.double("dt_max", default: 0.1, in: 1e-30...1e30)
        let floor = try reader.double("dt_init_floor", default: 1e-4, in: 1e-30...1e30)

        let channels = innerWidth + 4 * groupCount * stateSize
        projection = builder.matrix("mixer.in_proj.weight", innerWidth + channels + 2 * headCount, width)
        convolution = ShortConvolution(
            "mixer.conv1d", carry: "", channels: channels, taps: taps, bias: true, silu: true, builder)
        stepBias = builder.vector(
            "mixer.dt_bias", headCount, .stepBias(low: Float(smallest), high: Float(largest), floor: Float(floor)))
        logRate = builder.vector("mixer.A_log", headCount, .constant(0))
        skip = builder.vector("mixer.D", headCount, .constant(1))
        diagonal = builder.matrix(
            "mixer.fc_D.weight", headCount, innerWidth, .uniform(bound: 1 / Float(innerWidth).squareRoot()))
        norm = GatedNorm(
            "mixer.norm", GatedNormShape(groupCount: 1, groupWidth: innerWidth, gate: .silu, epsilon: 1e-5), builder)
        output = Linear("mixer.out_proj", innerWidth, width, bias: false, builder)
    }

    private var headCount: Int { innerWidth / headSize }
    private var channels: Int { innerWidth + 4 * groupCount * stateSize }

    public var outputWidth: Int { width }
    public var chunkingObstacle: String? { "hydra looks at both sides of a token and needs the whole sequence" }
    public var lookahead: Lookahead { .whole }
    public var streamStateNames: [String] { [] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let pieces = tape.linear(x, weight: projection, splitting: [innerWidth, channels, headCount, headCount])
        let xBC = convolution.centred(pieces[1], pass)
        func side(_ side: MatrixMemoryShape.Side, _ rawSteps: Variable, keys: Int) -> MemorySide {
            let (steps, logDecay) = tape.decayGate(rawSteps, bias: stepBias, logRate: logRate)
            let keys = innerWidth + keys * groupCount * stateSize
            return MemorySide(
                side, keys: keys, queries: keys + groupCount * stateSize, logDecay: logDecay, valueScale: steps)
        }
        let y = tape.twoSidedMemory(
            xBC, sides: [side(.before, pieces[2], keys: 0), side(.after, pieces[3], keys: 2)], weight: diagonal,
            bias: skip
        ) { side in
            MatrixMemoryShape(
                batch: pass.batch, time: pass.time, headCount: headCount, keyWidth: stateSize, valueWidth: headSize,
                queryHeadCount: groupCount, keyHeadCount: groupCount, side: side)
        }
        return (output(norm(y, gate: pieces[0], tape), tape), [])
    }

    public func flopsPerToken(time: Int) -> Double {
        let projections = 2 * width * (2 * innerWidth + channels + 2 * headCount) + 2 * headCount * innerWidth
        let chunk = min(time, MatrixMemoryShape.chunk)
        let memory = chunk * (stateSize * groupCount + innerWidth) + 4 * innerWidth * stateSize
        return Double(projections + 2 * memory) + convolution.flopsPerToken
    }

    public var savedPerToken: Int {
        3 * innerWidth + 2 * channels + 11 * headCount + 2 * innerWidth * stateSize / MatrixMemoryShape.chunk
    }
}
