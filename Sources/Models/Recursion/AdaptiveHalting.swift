import Autograd
import Kernels
import Tensors

/// Adaptive computation time: every position has an answer of its own, a blend of the states after the applications of
/// a shared block, weighted by when it halts (arXiv 1603.08983; as in the code of arXiv 1807.03819).
///
/// Before each application `p = σ(state · halt.weight + halt.bias)`; see `Tape.halting` for the weights. All applications
/// run for every position, and halted ones stay visible to the others. Keys of `halting:` in `recursion:`
/// - `type`: `basic` (default), `answer = w·s + (1 − w)·answer` | `accumulated`, `answer + w·s`.
/// - `epsilon` (0.01): a position halts when its probabilities would exceed `1 − epsilon`.
/// - `bias` (1): where `halt.bias` starts.
/// - `halts_at_last` (false): whether positions that still run at the last application halt there, weighted by the
///   remainder (arXiv 1603.08983). A low `bias` then starts close to a fixed number of steps, from which halting learns what
///   can be left out. Otherwise (the code of arXiv 1807.03819) their weights sum to less than 1.
/// - `loss_weight` (0.01): of the term `ponder`, the mean over positions of applications and remainder.
///
/// Statistic `steps`: applications before a position halts.
struct AdaptiveHalting {
    let blend: HaltingBlend
    private let threshold: Float
    let bias: Float
    let haltsAtLast: Bool
    let lossWeight: Float

    init(_ reader: ConfigurationReader) throws(ConfigurationError) {
        blend = try reader.choice("type", default: .basic)
        threshold = Float(1 - (try reader.double("epsilon", default: 0.01, above: 0, below: 1)))
        bias = Float(try reader.double("bias", default: 1))
        haltsAtLast = try reader.bool("halts_at_last", default: false)
        lossWeight = Float(try reader.double("loss_weight", default: 0.01, in: 0...1e6))
    }

    /// The sum of probabilities beyond which a position halts, at an application.
    func threshold(isLast: Bool) -> Float { isLast && haltsAtLast ? -1 : threshold }

    /// What an application hands on: its weight, the state of halting, and the answer so far.
    struct Progress {
        var weight: Variable  // [R, 1]
        var state: Variable  // [R, 4]
        /// Nil before the first application has been blended.
        var answer: Variable?  // [R, D]

        /// Floats per row of a link.
        static func width(hasAnswer: Bool, _ width: Int) -> Int { 5 + (hasAnswer ? width : 0) }

        func packed(_ tape: Tape) -> Variable {
            let decision = tape.concatenateColumns(weight, state)
            return answer.map { tape.concatenateColumns(decision, $0) } ?? decision
        }

        init(weight: Variable, state: Variable, answer: Variable?) {
            (self.weight, self.state, self.answer) = (weight, state, answer)
        }

        init(_ packed: Variable, _ tape: Tape) {
            weight = tape.columns(packed, 0..<1)
            state = tape.columns(packed, 1..<5)
            answer = packed.value.width > 5 ? tape.columns(packed, 5..<packed.value.width) : nil
        }
    }

    /// Blends what came of the application before.
    func blended(_ packed: Variable, with x: Variable, _ tape: Tape) -> (answer: Variable, state: Variable) {
        let progress = Progress(packed, tape)
        return (tape.blended(progress.answer, with: x, weight: progress.weight, blend), progress.state)
    }
}

/// Comes before every application of a shared block: adds the signals, and decides which positions go on.
///
/// Parameters, under the group's first layer: `step_embedding.weight [R, D]`, `halt.weight [1, D]`, `halt.bias [1]`.
final class StepLayer: HiddenLayer {
    let name: String
    let uses: [ParameterUse]
    let outputWidth: Int
    private let application: Int
    private let isLast: Bool
    private let signals: StepSignals?
    private let stepEmbedding: ParameterUse?
    private let halting: AdaptiveHalting?
    private let halt: Linear?

    /// - Parameters:
    ///   - application: counted from 0. - count: of applications.
    ///   - builder: shares the parameters of the first application's.
    init(
        application: Int, of count: Int, signals: StepSignals?, halting: AdaptiveHalting?, _ builder: LayerBuilder
    ) {
        name = builder.prefix
        outputWidth = builder.inputWidth
        self.application = application
        isLast = application == count - 1
        self.signals = signals
        self.halting = halting
        stepEmbedding = signals?.embedding(count: count, builder)
        halt = halting.map { Linear("halt", builder.inputWidth, 1, bias: .constant($0.bias), builder) }
        uses = builder.uses
    }

    func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        var flow = flow
        let before = halting.flatMap { halting in
            flow.arriving[.halting].map { halting.blended($0, with: flow.activation, pass.tape) }
        }
        if let signals {
            flow.activation = signals.add(
                to: flow.activation, application: application, embedding: stepEmbedding, pass)
        }
        if let halting, let halt {
            let p = pass.tape.activation(.sigmoid, halt(flow.activation, pass.tape))
            let (weight, state) = pass.tape.halting(
                p, state: before?.state, threshold: halting.threshold(isLast: isLast))
            flow.leaving[.halting] =
                AdaptiveHalting.Progress(weight: weight, state: state, answer: before?.answer).packed(pass.tape)
        }
        return (flow, [])
    }

    func forwardFLOPsPerToken(time: Int) -> Double { halting == nil ? 0 : Double(4 * outputWidth) }
    var savedPerToken: Int { (halting == nil ? 1 : 4) * outputWidth }
}

/// Comes after the last application: its output is the answer.
final class AnswerLayer: HiddenLayer {
    let name: String
    let uses: [ParameterUse] = []
    let outputWidth: Int
    let auxiliaryTerms = ["ponder"]
    let statisticTerms = ["steps"]
    let chunkingObstacle: String? = "the ponder cost is a mean over whole sequences"
    private let halting: AdaptiveHalting

    init(_ halting: AdaptiveHalting, _ builder: LayerBuilder) {
        name = builder.prefix
        outputWidth = builder.inputWidth
        self.halting = halting
    }

    func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        var flow = flow
        let (answer, state) = halting.blended(flow.arriving[.halting]!, with: flow.activation, pass.tape)
        flow.activation = answer
        if let auxiliary = pass.auxiliary {
            let cost = pass.tape.ponderCost(state, scale: halting.lossWeight * auxiliary.scale)
            auxiliary.report(Double(halting.lossWeight) * cost, "ponder", of: name)
        }
        if let statistics = pass.statistics {
            let rows = state.value.rows
            let steps = (0..<rows).reduce(0.0) { $0 + Double(state.value.pointer[4 * $1 + 2]) }
            statistics.report(sum: steps, count: rows, "steps", of: name)
        }
        return (flow, [])
    }

    func forwardFLOPsPerToken(time: Int) -> Double { Double(3 * outputWidth) }
    var savedPerToken: Int { 3 * outputWidth }
}
