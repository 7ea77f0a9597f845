import Autograd
import Kernels
import Tensors

/// Aaren: softmax attention of one learned query, as a recurrence of constant memory.
///
/// `q = W_q token`; per head `s_t = q·k_t / √d`, `o_t = Σ_{j≤t} e^{s_j} v_j / Σ_{j≤t} e^{s_j}`, kept as a running maximum `m`,
/// sum `u` and weighted sum `w`; `y = W_o o`. Because the query never changes, it is folded into `W_k`, and keys are not
/// computed at all.
///
/// Keys: `head_count` H, which divides the width D.
/// Names: `mixer.query_token [D]`, `mixer.{q,k,v,o}_proj.weight [D, D]`; `4D² + D` parameters.
/// Carry: `m`, `u` `[B, H]`, `w [B, H, D/H]`; `m` carries no gradient.
/// Cost per token: `4D² + 2HD + 6D` FLOPs; state `2H + D` floats.
/// Source: arXiv 2405.13956, sections 3.1 and 3.2; one query token for each layer is this implementation's choice.
public final class AarenMixer: SequenceMixer {
    public static let name = "aaren"

    private let headCount: Int
    public let outputWidth: Int
    private let token: ParameterUse
    private let query, key, value, output: Linear

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        headCount = try reader.int("head_count", default: nil, in: 1...4096)
        if width % headCount != 0 {
            throw reader.error("head_count", "\(headCount) does not divide the width \(width)")
        }
        outputWidth = width
        token = builder.vector(
            "mixer.query_token", width, .normal(standardDeviation: Float(builder.defaults.initializerRange)))
        query = Linear("mixer.q_proj", width, width, bias: false, builder)
        key = Linear("mixer.k_proj", width, width, bias: false, builder)
        value = Linear("mixer.v_proj", width, width, bias: false, builder)
        output = Linear("mixer.o_proj", width, width, bias: false, builder)
    }

    public var chunkingObstacle: String? { nil }
    public var streamStateNames: [String] { ["m", "u", "w"] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let scores = tape.learnedQueryScores(
            x, token: token, queryWeight: query.weight, keyWeight: key.weight, headCount: headCount)
        var state: (m: Variable, u: Variable, w: Variable)?
        if let m = carry["m"], let u = carry["u"], let w = carry["w"] { state = (m, u, w) }
        let (o, m, u, w) = tape.runningSoftmax(
            scores: scores, v: value(x, tape), state: state, batch: pass.batch, time: pass.time)
        let carryOut = [("m", m), ("u", u), ("w", w)].map { CarryTensor(name: $0.0, variable: $0.1) }
        return (output(o, tape), carryOut)
    }

    public func flopsPerToken(time: Int) -> Double {
        Double(4 * outputWidth * outputWidth + 2 * headCount * outputWidth + 6 * outputWidth)
    }

    public var savedPerToken: Int { 2 * outputWidth + 4 * headCount }
}
