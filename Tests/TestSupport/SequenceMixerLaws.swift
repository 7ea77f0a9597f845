import Autograd
import Models
import Tensors
import Testing

/// A configuration of a mixer, and what is known about it.
public struct MixerCase: Sendable, CustomTestStringConvertible {
    public let type: String
    public let settings: [String: String]
    public let width: Int
    /// The formula of the mixer's documentation, worked out.
    public let parameterCount: Int
    /// Whether chunks give the same bits as the whole sequence, not only the same numbers.
    public let isBitwise: Bool
    /// The carry tensor that only scales others, where there is one.
    public let stabilizer: Stabilizer?
    /// Kinks (ReLU) between the points of a difference quotient make it inexact.
    public let hasKinks: Bool
    /// What the gradients' difference quotients may be off by, relative to the gradient's norm.
    public let differenceTolerance: Double

    public init(
        _ type: String, _ settings: [String: String] = [:], width: Int, parameterCount: Int, isBitwise: Bool = false,
        stabilizer: Stabilizer? = nil, hasKinks: Bool = false, differenceTolerance: Double = 2e-3
    ) {
        self.type = type
        self.settings = settings
        self.width = width
        self.parameterCount = parameterCount
        self.isBitwise = isBitwise
        self.stabilizer = stabilizer
        self.hasKinks = hasKinks
        self.differenceTolerance = hasKinks ? 2e-2 : differenceTolerance
    }

    /// A logarithm `name` by which the tensors `scaled` are divided: outputs depend on `scaled · e^name` alone, and no
    /// gradient goes through `name`.
    public struct Stabilizer: Sendable {
        public let name: String
        public let scaled: [String]

        public init(_ name: String, scaling scaled: [String]) {
            self.name = name
            self.scaled = scaled
        }
    }

    public var testDescription: String {
        ([type] + settings.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }).joined(separator: ", ")
    }
}

/// What every sequence mixer obeys. A new mixer's test is a table of cases, `checkAll` on each of them, and
/// `checkLongInput` on one.
public struct SequenceMixerLaws {
    /// Around the vector width (16) and the tiles, and away from their multiples.
    public static let awkwardTimes = [1, 7, 63, 100, 257]
    /// Float rounding of sums that are cut in another place.
    static let tolerance = 2e-5

    let mixerCase: MixerCase
    let bench: MixerBench

    public init(_ mixerCase: MixerCase) throws {
        self.mixerCase = mixerCase
        bench = try MixerBench(mixerCase)
    }

    private var canBeCut: Bool { bench.mixer.chunkingObstacle == nil }

    public func checkAll() throws {
        checkParameterCount()
        for time in Self.awkwardTimes {
            checkChunks(time: time, past: 5)
            checkChunks(time: time, past: 0)
        }
        for time in [1, 7, 63] { checkOneTokenAtATime(time: time) }
        checkGradients()
        checkCausality()
        checkRowsAreIndependent()
        checkHalves()
        try checkThreads()
    }

    public func checkParameterCount() {
        if bench.registry.elementCount == mixerCase.parameterCount { return }
        Issue.record("\(bench.registry.elementCount) parameters; the formula gives \(mixerCase.parameterCount)")
    }

    /// Chunks with the carry, and its gradient, handed on = the whole sequence: outputs and all gradients.
    ///
    /// - Parameter past: tokens that the initial carry has seen; none is no carry.
    public func checkChunks(time: Int, past: Int) {
        guard canBeCut else { return }
        let problem = bench.problem(batch: 2, time: time, past: past, seed: 10)
        let whole = bench.run(problem)
        let single = Set([1, time - 1, time / 3 | 1, time * 2 / 3 | 1]).filter { 0 < $0 && $0 < time }.map { [$0] }
        let several = time > 40 ? [[1, 2, 19, time - 2]] : []
        for cuts in single + several {
            compare("T \(time) after \(past), cut at \(cuts)", whole, bench.run(problem, cuts: cuts))
        }
    }

    /// As generation runs, but with the gradients too.
    public func checkOneTokenAtATime(time: Int) {
        guard canBeCut else { return }
        let problem = bench.problem(batch: 2, time: time, past: 0, seed: 20)
        compare("T \(time) token by token", bench.run(problem), bench.run(problem, cuts: Array(1..<time)))
    }

    private func compare(_ name: String, _ whole: MixerBench.Outcome, _ parts: MixerBench.Outcome) {
        if mixerCase.isBitwise {
            assertSameBits("\(name): output", whole.output, parts.output)
            assertSameBits("\(name): input gradient", whole.inputGradient, parts.inputGradient)
        }
        assertClose("\(name): output", whole.output, parts.output, ratio: Self.tolerance)
        assertClose("\(name): input gradient", whole.inputGradient, parts.inputGradient, ratio: Self.tolerance)
        for (a, b) in zip(whole.carryOut, parts.carryOut) {
            if a.name != b.name || a.shape != b.shape {
                Issue.record("\(name): carry \(b.name) \(b.shape), not \(a.name) \(a.shape)")
            }
            assertClose("\(name): carry \(a.name)", a.values, b.values, ratio: Self.tolerance)
        }
        for (i, (a, b)) in zip(whole.carryInGradient, parts.carryInGradient).enumerated() {
            assertClose("\(name): gradient of carry \(i)", a, b, ratio: Self.tolerance)
        }
        let largest = whole.parameterGradient.map { norm($0.values) }.max() ?? 0
        for (a, b) in zip(whole.parameterGradient, parts.parameterGradient) {
            // Sums that nearly cancel are compared on the scale of the largest gradient: a key's bias shifts all
            // scores of a row alike, an input gate's bias all weights of a memory with a normaliser.
            let scale = norm(a.values) / max(norm(a.values), 1e-2 * largest)
            assertClose("\(name): gradient of \(a.name)", a.values, b.values, ratio: Self.tolerance / max(scale, 1e-9))
        }
    }

    private func norm(_ x: [Float]) -> Double { x.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot() }

    /// Gradients of input, carry and every parameter against central differences of the loss along
    /// random ±1 directions, which see an error in any element.
    ///
    /// The forward pass is float32: its rounding, about 1e-7 of the loss's terms, is divided by a step of
    /// 1e-2, and the fourth-order quotient leaves a truncation of about its fourth power; 2e-3 of the
    /// gradient's norm covers both with room, and a missing factor or term is two orders above it.
    public func checkGradients() {
        var problem = bench.problem(batch: 2, time: 9, past: canBeCut ? 4 : 0, seed: 30)
        let outcome = bench.run(problem)
        let tolerance = mixerCase.differenceTolerance
        let largest = outcome.parameterGradient.map { norm($0.values) }.max() ?? 0

        func check(_ name: String, _ gradient: [Float], _ values: [Float], _ set: ([Float]) -> Double) {
            let step = (mixerCase.hasKinks ? 1e-3 : 1e-2) * max(0.1, norm(values) / Double(values.count).squareRoot())
            for seed in UInt64(40)..<43 {
                let direction = randomFloats(values.count, seed: seed).map { $0 < 0 ? -1.0 : 1.0 }
                func loss(_ distance: Double) -> Double {
                    set(zip(values, direction).map { Float(Double($0) + distance * $1) })
                }
                // Few elements move the loss little, many a lot: the step is per element.
                let h = step / Double(values.count).squareRoot().squareRoot()
                let difference = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
                let slope = zip(gradient, direction).reduce(0) { $0 + Double($1.0) * $1.1 }
                let error = abs(slope - difference) / (norm(gradient) + 1e-2 * largest)
                if !(error <= tolerance) {
                    Issue.record("gradient of \(name): \(slope) along a direction, differences give \(difference)")
                }
            }
            _ = set(values)
        }
        let base = problem
        check("the input", outcome.inputGradient, base.x) {
            problem.x = $0
            return bench.loss(problem)
        }
        // A stabiliser that changes alone rescales the past, which its convention of no gradient leaves out.
        for (i, carry) in base.carry.enumerated() where carry.name != mixerCase.stabilizer?.name {
            check("carry \(carry.name)", outcome.carryInGradient[i], carry.values) {
                problem.carry[i].values = $0
                return bench.loss(problem)
            }
        }
        for gradient in outcome.parameterGradient {
            let parameter = bench.registry.parameter(named: gradient.name)!
            check(gradient.name, gradient.values, parameter.value.array) {
                parameter.value.copy(from: $0, count: $0.count)
                parameter.valueChanged()
                return bench.loss(problem)
            }
        }
    }

    /// Changing token `t` leaves outputs before `t` bitwise alone, unless the mixer says that it looks ahead, and reaches
    /// `t` itself.
    public func checkCausality() {
        switch bench.mixer.lookahead {
        case .none: break
        case .prefix(let length):
            if length < 19 { checkReach(of: length, startsAt: length) }
            return checkReach(of: min(length, 20) - 1, startsAt: 0)
        case .whole: return checkReach(of: 3, startsAt: 0)
        }
        var problem = bench.problem(batch: 2, time: 100, past: 0, seed: 50)
        let before = bench.run(problem, withGradients: false).output
        for t in [99, 64, 17, 1] {
            for i in 0..<bench.width { problem.x[(100 + t) * bench.width + i] += 0.5 }
            let after = bench.run(problem, withGradients: false).output
            let start = (100 + t) * bench.mixer.outputWidth
            assertSameBits("outputs before a change at \(t)", Array(before[..<start]), Array(after[..<start]))
            let own = start..<start + bench.mixer.outputWidth
            if Array(before[own]) == Array(after[own]) { Issue.record("a change at \(t) does not reach output \(t)") }
        }
    }

    /// For mixers that look ahead: changing token `t` leaves outputs before `start` bitwise alone, and reaches `start`.
    public func checkReach(of t: Int, startsAt start: Int) {
        var problem = bench.problem(batch: 1, time: 20, past: 0, seed: 51)
        let width = bench.mixer.outputWidth
        let before = bench.run(problem, withGradients: false).output
        for i in 0..<bench.width { problem.x[t * bench.width + i] += 0.5 }
        let after = bench.run(problem, withGradients: false).output
        assertSameBits("outputs before \(start)", Array(before[..<(start * width)]), Array(after[..<(start * width)]))
        let first = start * width..<(start + 1) * width
        if Array(before[first]) == Array(after[first]) {
            Issue.record("a change at \(t) does not reach output \(start)")
        }
    }

    /// A sequence alone = the same sequence in a batch, bitwise.
    public func checkRowsAreIndependent() {
        let (batch, time) = (3, 63)
        let together = bench.problem(batch: batch, time: time, past: 0, seed: 60)
        let all = bench.run(together)
        for row in 0..<batch {
            func own(_ x: [Float]) -> [Float] { Array(x[x.count / batch * row..<x.count / batch * (row + 1)]) }
            var alone = together
            alone.batch = 1
            alone.firstSample = row
            alone.x = own(together.x)
            alone.outputGradient = own(together.outputGradient)
            alone.carryGradient = together.carryGradient.map(own)
            let one = bench.run(alone)
            assertSameBits("row \(row) alone: output", own(all.output), one.output)
            assertSameBits("row \(row) alone: input gradient", own(all.inputGradient), one.inputGradient)
        }
    }

    /// The input half of the backward pass leaves every parameter's slot empty; a second pass adds.
    public func checkHalves() {
        let problem = bench.problem(batch: 2, time: 7, past: 0, seed: 70)
        let once = bench.run(problem)
        var isEmpty = true
        _ = bench.run(problem) {
            isEmpty = bench.parameterGradients().allSatisfy { $0.values.allSatisfy { $0 == 0 } }
            for use in bench.uses { use.resetGradient() }
        }
        if !isEmpty { Issue.record("inputGradients changed the gradient of a parameter") }

        let twice = bench.run(problem) {
            // The gradients of a first micro-batch, left in the slots.
            for (use, gradient) in zip(bench.uses, once.parameterGradient) {
                use.gradient(bench.context).copy(from: gradient.values, count: gradient.values.count)
            }
        }
        assertSameBits("input gradient with filled slots", once.inputGradient, twice.inputGradient)
        for (a, b) in zip(once.parameterGradient, twice.parameterGradient) {
            // Exact where products are added whole; sums that start from the slot round otherwise.
            assertClose("twice the gradient of \(a.name)", a.values.map { 2 * $0 }, b.values, ratio: 1e-5)
        }
    }

    /// Finite outputs and gradients over a long input, and chunks that agree with the whole, with gates in their
    /// usual range and at their extremes.
    public func checkLongInput(time: Int = 16_384) {
        for inputScale: Float in [1, 50] {
            let name = "T \(time), inputs up to \(inputScale)"
            let problem = bench.problem(batch: 1, time: time, past: 0, seed: 80, inputScale: inputScale)
            let whole = bench.run(problem)
            let gradients = whole.parameterGradient.map(\.values) + [whole.inputGradient]
            if !([whole.output] + gradients).allSatisfy({ $0.allSatisfy(\.isFinite) }) {
                Issue.record("\(name): not finite")
                continue
            }
            guard canBeCut else { continue }
            let parts = bench.run(problem, cuts: [time / 3, time / 2 | 1])
            // Rounding adds up over the tokens; an unstable form errs by far more.
            assertClose("\(name): output in chunks", whole.output, parts.output, ratio: 1e-3)
            assertClose("\(name): input gradient in chunks", whole.inputGradient, parts.inputGradient, ratio: 1e-3)
        }
    }

    /// Two threads give the bits of one.
    public func checkThreads() throws {
        let two = try MixerBench(mixerCase, threadCount: 2)
        let problem = bench.problem(batch: 3, time: 100, past: 0, seed: 90)
        let (a, b) = (bench.run(problem), two.run(problem))
        assertSameBits("two threads: output", a.output, b.output)
        assertSameBits("two threads: input gradient", a.inputGradient, b.inputGradient)
        for (x, y) in zip(a.parameterGradient, b.parameterGradient) {
            assertSameBits("two threads: gradient of \(x.name)", x.values, y.values)
        }
    }
}
