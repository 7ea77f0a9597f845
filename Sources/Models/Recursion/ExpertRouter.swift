import Autograd
import Tensors

/// Stands before one recursion of a routed group and lets through the tokens with the largest logits of those that
/// came through the recursion before; the last one, after all recursions, lets all through.
///
/// With `H` the residual stream `[T, D]`, `X` what the recursion before has made of its tokens `sel`:
/// `H[sel] += g[sel] X`, `z = router(H[sel])`, `g = α gate(z)`; the next recursion gets `H` at the `⌊c T⌋` largest `z` of
/// each sequence, ties to the earlier token. Terms: `router = coefficient · mean BCE(z, chosen)`,
/// `router_z = z_loss · mean z²`. A causal pass takes the tokens whose logit is not negative.
/// Statistic `sampling_accuracy`: share of the candidates that generation would treat as the capacity does.
/// Source: arXiv 2507.10524, expert choice. Names: `mor_router` and `mlp_router` (`RouterNetwork`).
final class ExpertRouter: HiddenLayer {
    let name: String
    let uses: [ParameterUse]
    let outputWidth: Int
    private let settings: RouterSettings
    private let recursion: Int
    /// Nil after the last recursion.
    private let scores: RouterScores?
    private let auxiliary: RouterNetwork?

    /// - Parameter recursion: the one that follows, counted from 0.
    init(_ settings: RouterSettings, recursion: Int, _ builder: LayerBuilder) {
        let isLast = recursion == settings.budgets.count
        name = "\(builder.prefix).\(isLast ? "merge" : "mor_router")"
        outputWidth = builder.inputWidth
        self.settings = settings
        self.recursion = recursion
        scores = isLast ? nil : RouterScores(settings, outputs: 1, builder)
        auxiliary =
            isLast || settings.sampling != .auxRouter
            ? nil : RouterNetwork("mlp_router", outputs: 1, settings.network, rateFactor: 10, builder)
        uses = builder.uses
    }

    func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry) {
        let tape = pass.tape
        let candidates = flow.selection?.rows ?? Array(0..<Int32(pass.rows))
        let state = recursion == 0 ? flow.activation : merged(flow, candidates, tape)
        guard let scores else { return (Flow(state), []) }
        // Rows that fill up show the router any token.
        let places = candidates.map { max($0, 0) }
        let seen = flow.selection == nil ? state : tape.gathered(state, rows: places)
        let z = scores(seen, rows: places, pass)
        let isChosen = choice(z, seen, candidates, pass)
        var result = Flow(state)
        if !budget.isWhole {
            let selection = TokenSelection(candidates, where: isChosen, batch: pass.batch)
            result = Flow(tape.gathered(state, rows: selection.rows.map { max($0, 0) }), selection: selection)
        }
        result.leaving[.residual] = state
        if settings.isWeighted {
            let gates = settings.gates(z, tape)
            result.leaving[.gates] =
                flow.selection == nil
                ? gates
                : tape.scatteredSum(
                    Variable(tape.context.zeros(Shape(pass.rows, 1))), adding: gates, weight: nil, rows: candidates)
        }
        report(z, seen, isChosen, pass)
        return (result, [])
    }

    private var budget: TokenBudget { settings.budgets[recursion] }
    /// Part of the tokens that comes here.
    private var shareBefore: Double { recursion == 0 ? 1 : settings.budgets[recursion - 1].share }

    /// The residual stream with what comes from the recursion before.
    private func merged(_ flow: Flow, _ rows: [Int32], _ tape: Tape) -> Variable {
        let weight = settings.isWeighted ? tape.gathered(flow.arriving[.gates]!, columns: 0..<1, rows: rows) : nil
        return tape.scatteredSum(flow.arriving[.residual]!, adding: flow.activation, weight: weight, rows: rows)
    }

    /// Which candidates go on; those below 0 fill up their sequence.
    private func choice(_ z: Variable, _ seen: Variable, _ candidates: [Int32], _ pass: Pass) -> [Bool] {
        let isToken = candidates.map { $0 >= 0 }
        if budget.isWhole { return isToken }
        if pass.routesCausally, pass.statistics == nil { return zip(guesses(z, seen, pass), isToken).map { $0 && $1 } }
        let ranked = ranked(z, isToken, pass)
        guard let statistics = pass.statistics else { return ranked }
        let guesses = zip(guesses(z, seen, pass), isToken).map { $0 && $1 }
        let right = zip(guesses, ranked).count { $0 == $1 } - isToken.count { !$0 }
        statistics.report(sum: Double(right), count: isToken.count { $0 }, "sampling_accuracy", of: name)
        return pass.routesCausally ? guesses : ranked
    }

    /// The candidates with the largest logits, as many of each sequence as the capacity has room for.
    private func ranked(_ z: Variable, _ isToken: [Bool], _ pass: Pass) -> [Bool] {
        var isChosen = [Bool](repeating: false, count: isToken.count)
        let length = isToken.count / pass.batch
        for first in stride(from: 0, to: isToken.count, by: max(1, length)) {
            let count = isToken[first..<first + length].count { $0 }
            let logits = UnsafeBufferPointer(start: UnsafePointer(z.value.pointer + first), count: count)
            for i in TopK.select(logits, count: min(count, budget.count(in: pass))) { isChosen[first + Int(i)] = true }
        }
        return isChosen
    }

    /// Which candidates go on where later ones are not known.
    private func guesses(_ z: Variable, _ seen: Variable, _ pass: Pass) -> [Bool] {
        // Draws are uniform: the same part of those that came so far goes on as in training.
        let threshold = settings.isRandom ? Float(1 - budget.share / shareBefore) : 0
        let guess = auxiliary.map { $0(seen, pass.tape) } ?? z
        return guess.value.array.map { $0 >= threshold }
    }

    private func report(_ z: Variable, _ seen: Variable, _ isChosen: [Bool], _ pass: Pass) {
        guard let losses = pass.auxiliary else { return }
        let tape = pass.tape
        if settings.coefficient > 0 {
            // The auxiliary router looks on; the states learn nothing from it.
            let guess = auxiliary.map { $0(Variable(seen.value), tape) } ?? z
            let value = tape.binaryCrossEntropy(
                guess, labels: isChosen, scale: Float(settings.coefficient) * losses.scale)
            losses.report(settings.coefficient * value, "router", of: name)
        }
        if settings.zLoss > 0 {
            let value = tape.squaredMean(z, scale: Float(settings.zLoss) * losses.scale)
            losses.report(settings.zLoss * value, "router_z", of: name)
        }
    }

    var auxiliaryTerms: [String] {
        scores == nil ? [] : (settings.coefficient > 0 ? ["router"] : []) + (settings.zLoss > 0 ? ["router_z"] : [])
    }

    var statisticTerms: [String] { routesTokens ? ["sampling_accuracy"] : [] }
    var chunkingObstacle: String? { "a router of type expert compares the tokens of a whole sequence" }
    var routesTokens: Bool { scores != nil && !budget.isWhole }
    func outputTime(_ time: Int) -> Int { scores == nil ? time : budget.expected(of: time) }
    func largestOutputTime(in pass: Pass) -> Int { scores == nil ? pass.time : budget.limit(in: pass) }

    func forwardFLOPsPerToken(time: Int) -> Double {
        let networks = (scores?.flopsPerToken ?? 0) + (auxiliary?.flopsPerToken ?? 0)
        return shareBefore * (networks + (recursion == 0 ? 0 : Double(2 * outputWidth)))
    }

    /// The residual stream, the tokens that the router sees, and those that it lets through.
    var savedPerToken: Int { 3 * outputWidth + (scores?.savedPerToken ?? 0) + (auxiliary?.savedPerToken ?? 0) + 2 }
}
