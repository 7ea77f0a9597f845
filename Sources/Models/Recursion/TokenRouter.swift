import Autograd
import Glibc
import Tensors

/// Before the first recursion of a routed group, chooses for every token the last one that it goes through; before the
/// others and after the last, takes out the tokens that are through.
///
/// With `H` the state that enters, `X` the block's output so far: `z = router(H)`, `g = α gate(z)`, `i = argmax_j g_j` (plus
/// the bias, without balance loss), ties to the smaller; a token's result is `H + g_i X` after recursion `i`, or with
/// `gate_at: every` the block's output is multiplied by `g_r` in every recursion `r`. Terms: `balance = coefficient ·
/// Σ_j P_j f_j` (mean gate times share of tokens times `R`), `router_z = z_loss · mean (log Σ e^z)²`. Statistics `load_1` …
/// `load_R`, shares of the tokens by last recursion; of these `load_entropy` in nats and `max_violation`, by how much of the mean
/// the largest exceeds it.
/// Source: arXiv 2507.10524, token choice. Names: `mor_router` (`RouterNetwork`), `router_bias [R]`.
final class TokenRouter: HiddenLayer {
    let name: String
    let uses: [ParameterUse]
    let outputWidth: Int
    private let settings: RouterSettings
    private let recursion: Int
    /// Before the first recursion.
    private let scores: RouterScores?
    private let bias: ParameterUse?

    /// - Parameter recursion: the one that follows, counted from 0.
    init(_ settings: RouterSettings, recursion: Int, _ builder: LayerBuilder) {
        name = builder.prefix + (recursion == 0 ? ".mor_router" : ".merge.\(recursion)")
        outputWidth = builder.inputWidth
        self.settings = settings
        self.recursion = recursion
        let count = settings.budgets.count
        scores = recursion > 0 ? nil : RouterScores(settings, outputs: count, builder)
        bias =
            recursion > 0 || settings.balancing != .lossFree
            ? nil
            : builder.tensor(
                "router_bias", Shape(count), .constant(0), decays: false, updateRule: .sign(step: settings.biasStep))
        uses = builder.uses
    }

    private var count: Int { settings.budgets.count }

    /// Floats per token of what the routers tell each other: the gates, then the last recursion.
    static func gatesWidth(_ settings: RouterSettings) -> Int { settings.budgets.count + 1 }

    func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        (recursion == 0 ? choosing(flow.activation, pass) : sorting(flow, pass), [])
    }

    // MARK: Before the first recursion

    private func choosing(_ x: Variable, _ pass: Pass) -> Flow {
        let tape = pass.tape
        let z = scores!(x, rows: Array(0..<Int32(pass.rows)), pass)
        let gates = settings.gates(z, tape)
        let isWarmingUp = pass.isTraining && pass.step <= settings.balanceWarmupSteps
        let last = isWarmingUp ? [Int32](repeating: Int32(count - 1), count: pass.rows) : choices(gates.value)
        let choice = tape.context.tensor(Shape(pass.rows, 1))
        for (row, recursion) in last.enumerated() { choice.pointer[row] = Float(recursion) }

        var result = Flow(x)
        result.leaving[.residual] = x
        result.leaving[.gates] = tape.concatenateColumns(gates, Variable(choice))
        if !isWarmingUp { countLoads(last, pass) }
        if let statistics = pass.statistics {
            for (j, term) in statisticTerms.enumerated() {
                let load = last.reduce(0) { $0 + ($1 == j ? 1 : 0) }
                statistics.report(sum: Double(load), count: last.count, term, of: name)
            }
        }
        if let losses = pass.auxiliary {
            if settings.coefficient > 0, !isWarmingUp {
                let value = tape.balanceLoss(
                    gates, choices: last, groupRows: settings.scope == .sequence ? pass.time : pass.rows,
                    scale: Float(settings.coefficient) * losses.scale)
                losses.report(settings.coefficient * value, "balance", of: name)
            }
            if settings.zLoss > 0 {
                let value = tape.logSumExpSquaredMean(z, scale: Float(settings.zLoss) * losses.scale)
                losses.report(settings.zLoss * value, "router_z", of: name)
            }
        }
        return result
    }

    private func choices(_ gates: Tensor) -> [Int32] {
        (0..<gates.rows).map { row in
            func score(_ j: Int) -> Float { gates.pointer[row * count + j] + (bias?.value.pointer[j] ?? 0) }
            var best = 0
            for j in 1..<count where score(j) > score(best) { best = j }
            return Int32(best)
        }
    }

    /// Gathers `R · load_j − tokens` in place of the bias's gradient: its sign over the whole batch is that of the load less
    /// its mean. These are integers, exact up to 2²⁴.
    private func countLoads(_ last: [Int32], _ pass: Pass) {
        guard let bias else { return }
        let tape = pass.tape
        tape.recordRaw { [count] in
            tape.postpone {
                let sum = bias.gradient(tape.context).pointer
                for recursion in last { sum[Int(recursion)] += Float(count) }
                for j in 0..<count { sum[j] -= Float(last.count) }
            }
        }
    }

    // MARK: Before the others

    private func sorting(_ flow: Flow, _ pass: Pass) -> Flow {
        let tape = pass.tape
        let (table, residual) = (flow.arriving[.gates]!, flow.arriving[.residual]!)
        let rows = flow.selection?.rows ?? Array(0..<Int32(pass.rows))
        var (x, state, selection) = (flow.activation, residual, flow.selection)
        if !rows.isEmpty {
            // Rows that fill up belong to no recursion.
            let last = rows.map { $0 < 0 ? -1 : Int(table.value.pointer[(Int($0) + 1) * (count + 1) - 1]) }
            let gate =
                settings.isWeighted ? tape.gathered(table, columns: recursion - 1..<recursion, rows: rows) : nil
            let gatesAll = settings.gatePlace == .every
            if gatesAll { x = tape.scaledHeads(x, by: gate!) }
            state = tape.scatteredSum(
                residual, adding: x, weight: gatesAll ? nil : gate,
                rows: zip(rows, last).map { $1 == recursion - 1 ? $0 : -1 })
            if recursion < count {
                let staying = staying(last, pass)
                selection = TokenSelection(
                    rows: staying.map { last[$0] < recursion ? -1 : rows[$0] }, batch: pass.batch)
                x = tape.gathered(x, rows: staying.map(Int32.init))
            }
        }
        guard recursion < count else { return Flow(state) }
        var result = Flow(x, selection: selection)
        (result.leaving[.residual], result.leaving[.gates]) = (state, table)
        return result
    }

    /// Places of the tokens that go on, as many for each sequence: shorter ones repeat a place of theirs that does not.
    private func staying(_ last: [Int], _ pass: Pass) -> [Int] {
        let length = last.count / pass.batch
        let sequences = (0..<pass.batch).map { b in
            (b * length..<(b + 1) * length).filter { last[$0] >= recursion }
        }
        let time = sequences.map(\.count).max()!
        return sequences.enumerated().flatMap { b, places in
            let filler = time == places.count ? 0 : (b * length..<(b + 1) * length).last { last[$0] < recursion }!
            return places + Array(repeating: filler, count: time - places.count)
        }
    }

    var auxiliaryTerms: [String] {
        scores == nil ? [] : (settings.coefficient > 0 ? ["balance"] : []) + (settings.zLoss > 0 ? ["router_z"] : [])
    }

    var statisticTerms: [String] { scores == nil ? [] : (1...count).map { "load_\($0)" } }

    func derivedStatistics(_ loads: [Double]) -> [(term: String, value: Double)] {
        guard let largest = loads.max() else { return [] }
        return [
            ("load_entropy", -loads.reduce(0) { $0 + ($1 > 0 ? $1 * log($1) : 0) }),
            ("max_violation", largest * Double(count) - 1),
        ]
    }

    var chunkingObstacle: String? { "a router of type token fills up sequences where others have more tokens left" }
    var routesTokens: Bool { recursion > 0 && recursion < count }
    func outputTime(_ time: Int) -> Int { recursion < count ? settings.budgets[recursion].expected(of: time) : time }

    func forwardFLOPsPerToken(time: Int) -> Double {
        scores?.flopsPerToken ?? settings.budgets[recursion - 1].share * Double(2 * outputWidth)
    }

    /// The residual stream and the tokens that are left; the gates.
    var savedPerToken: Int { 2 * outputWidth + 2 * (count + 1) + (scores?.savedPerToken ?? 0) }
}
