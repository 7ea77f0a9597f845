import Autograd
import Kernels
import Tensors

/// MEGA: gated attention within chunks, with positions from a damped moving average of every channel.
///
/// The unit, its keys, names and carry are those of `MegaUnit`; `move` is, per channel with `N` averages,
/// `h_t,n = (1 − p_n σ(alpha_n)) h_{t−1,n} + p_n beta_n x̂_t`, `p = σ(delta)`, `y_t = Σ_n gamma_n N^(−½) h_t,n + omega x̂_t`.
///
/// Keys besides: `ndim` N (16).
/// Names besides: `mixer.move.{delta,alpha,beta} [D, N, 1]`, `mixer.move.gamma [D, N]`, `mixer.move.omega [D]`; `4DN + D`
/// parameters.
/// Carry besides: `h [B, D, N]`.
/// Cost per token: 2 FLOPs a weight, `(Z + h)(C + 1)` for attention, `6ND` for the average; state `ND + C·(Z + h)` floats.
/// Source: arXiv 2209.10655; the authors' code.
public final class MegaMixer: SequenceMixer {
    public static let name = "mega"
    private let unit: MegaUnit
    private let stateCount: Int
    private let average: MovingAverageParameters

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let (width, N) = (builder.inputWidth, try reader.int("ndim", default: 16, in: 1...MovingAverage.maximumStates))
        stateCount = N
        func parameter(_ name: String, _ shape: Shape, _ initializer: Initializer) -> ParameterUse {
            builder.tensor("mixer.move.\(name)", shape, initializer, decays: false)
        }
        let small = Initializer.normal(standardDeviation: 0.2), wide = Initializer.normal(standardDeviation: 1)
        let signs = (0..<N).map { Float($0 % 2 == 0 ? 1 : -1) }
        average = MovingAverageParameters(
            delta: parameter("delta", Shape(width, N, 1), small), alpha: parameter("alpha", Shape(width, N, 1), small),
            beta: parameter(
                "beta", Shape(width, N, 1), .repeated(base: .normal(standardDeviation: 0.02), values: signs)),
            gamma: parameter("gamma", Shape(width, N), wide), omega: parameter("omega", Shape(width), wide))
        unit = try MegaUnit(reader, builder)
    }

    public var outputWidth: Int { unit.width }
    public var chunkingObstacle: String? { nil }
    /// Keys and values stay with their batch, whose first token starts a chunk.
    public var streamStateNames: [String] { ["h"] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        unit.forward(x, carry: carry, pass) { normed in
            let (y, h) = pass.tape.movingAverage(
                normed, average, state: carry["h"], batch: pass.batch, time: pass.time)
            return (y, [CarryTensor(name: "h", variable: h)])
        }
    }

    public func flopsPerToken(time: Int) -> Double {
        unit.flopsPerToken(time: time) + Double(6 * stateCount * unit.width)
    }

    public var savedPerToken: Int { unit.savedPerToken + unit.width * stateCount / 64 }
}
