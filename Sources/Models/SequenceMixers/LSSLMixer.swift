import Autograd
import Glibc
import Kernels
import Tensors

/// LSSL: a dense state space of `N` real states per feature, its transition one of those that a tridiagonal solve applies.
///
///     A = −diag(pl) (T⁻¹ + diag(c)) diag(pr);   B = pl ⊙ b;   T tridiagonal: dl below, d on, du above the diagonal
///     (I − ΔA/2) x_t = (I + ΔA/2) x_{t−1} + Δ B u_t;   y = C·x + D u;   out = W gelu(y) + w
///
/// It starts as HiPPO-LegS: dl = −1, d = 1, du = 0, pl = pr = √(2n+1), c = −n/(2n+1), b = 1. A step is one sweep up and one
/// down the states (`StateSpaceScan`, semiseparable), so it costs O(N), and neither dense powers nor a convolution are needed.
///
/// Keys: `d_state` N (256), even; `learn`: 0 keeps A and B, 1 (default) trains one for all features, 2 one for each feature;
/// `dt_min` (1e-3), `dt_max` (0.1).
/// Parameters under `mixer.`: `log_dt [D]`, `C [D, 1, N]` and `D [D, 1]` from N(1),
/// `transition.{dl, d, du, pl, pr, c, b}` `[N]` or, with `learn: 2`, `[D, N]`; none with `learn: 0`;
/// `output_linear.weight [D, D]`, `.bias [D]`. No weight decay on all but the weight. The first of `dl` and the last of `du`
/// are not used; `d` must not vanish.
/// Carry: `x [B, D·N]`. Cost per token: 16·N·D FLOPs of the scan, 2·D² of the output; linear in T.
/// Source: arXiv 2110.13985; state-spaces/s4, `lssl.py` and `hippo/transition.py`.
public final class LSSLMixer: SequenceMixer {
    public static let name = "lssl"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["x"]
    private let stateCount: Int
    private let table: DerivedTensors
    private let skip: ParameterUse
    private let output: Linear

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        let count = try reader.int("d_state", default: 256, in: 2...4096)
        if count % 2 != 0 { throw reader.error("d_state", "\(count) is odd; expected an even number") }
        let learning = try reader.int("learn", default: 1, in: 0...2)
        let steps = try StepRange(reader)
        (outputWidth, stateCount) = (width, count)

        var sources = [
            builder.vector("mixer.log_dt", width, steps.logarithm(rows: width)),
            builder.tensor("mixer.C", Shape(width, 1, count), .normal(standardDeviation: 1), decays: false),
        ]
        let start = TransitionState.legS(size: count)
        if learning > 0 {
            let copies = learning == 1 ? 1 : width
            for (index, name) in TransitionState.names.enumerated() {
                let values = start.map { Float($0.values[index]) }
                sources.append(
                    builder.tensor(
                        "mixer.transition.\(name)", copies == 1 ? Shape(count) : Shape(copies, count),
                        .values((0..<copies).flatMap { _ in values }), decays: false))
            }
        }
        skip = builder.tensor("mixer.D", Shape(width, 1), .normal(standardDeviation: 1), decays: false)
        let bound = Initializer.uniform(bound: 1 / Float(width).squareRoot())
        output = Linear("mixer.output_linear", width, width, bias: true, builder, initializer: bound)

        /// What one feature is made of.
        let system = { (feature: Int, sources: [UnsafePointer<Float>]) -> SemiseparableStep in
            let first = learning == 2 ? feature * count : 0
            let states =
                learning == 0
                ? start : (first..<first + count).map { TransitionState(sources.dropFirst(2), at: $0) }
            return SemiseparableStep(states, step: exp(Double(sources[0][feature])))
        }
        table = DerivedTensors(from: sources, to: [Shape(width, count / 2, 16)]) { sources, outputs, _ in
            for feature in 0..<width {
                system(feature, sources).store(
                    readout: sources[1] + feature * count, into: outputs[0] + feature * count * 8)
            }
        } chain: { sources, gradients, sums, _ in
            for feature in 0..<width {
                let system = system(feature, sources)
                let (dStep, dStates) = system.gradients(
                    gradients[0] + feature * count * 8, dReadout: sums[1] + feature * count)
                sums[0][feature] += Float(dStep * system.step)
                if learning == 0 { continue }
                let first = learning == 2 ? feature * count : 0
                for (n, state) in dStates.enumerated() { state.add(to: sums.dropFirst(2), at: first + n) }
            }
        }
    }

    public func forward(_ u: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (y, state) = tape.stateSpace(
            u, table: tape.derived(table)[0], skip: skip, batch: pass.batch, time: pass.time, state: carry["x"])
        return (output(tape.gelu(y, tanhForm: false), tape), [CarryTensor(name: "x", variable: state)])
    }

    public func flopsPerToken(time: Int) -> Double {
        Double(outputWidth * (16 * stateCount + 2 + 2 * outputWidth))
    }

    /// The input, the scan's output, gelu; a state every 32 steps.
    public var savedPerToken: Int { outputWidth * (3 + stateCount / 32) }
}

/// What state n contributes to `A` and `B`.
private struct TransitionState {
    var dl = 0.0, d = 0.0, du = 0.0, pl = 0.0, pr = 0.0, c = 0.0, b = 0.0

    static let names = ["dl", "d", "du", "pl", "pr", "c", "b"]
    /// In the order of `names`.
    var values: [Double] { [dl, d, du, pl, pr, c, b] }

    static func legS(size: Int) -> [Self] {
        (0..<size).map { n in
            let root = Double(2 * n + 1).squareRoot()
            return Self(dl: -1, d: 1, pl: root, pr: root, c: -Double(n) / Double(2 * n + 1), b: 1)
        }
    }
}

extension TransitionState {
    init(_ sources: ArraySlice<UnsafePointer<Float>>, at index: Int) {
        let x = sources.map { Double($0[index]) }
        self.init(dl: x[0], d: x[1], du: x[2], pl: x[3], pr: x[4], c: x[5], b: x[6])
    }

    func add(to sums: ArraySlice<UnsafeMutablePointer<Float>>, at index: Int) {
        for (sum, value) in zip(sums, values) { sum[index] += Float(value) }
    }
}

/// One feature's bilinear step as rows of a semiseparable `StateSpaceScan`. It is `x ← 2y − x`, plus a multiple of u, where
/// `(I − δA) y = x`, `δ = Δ/2`. With `w = T⁻¹ diag(pr) y`, `E = 1 + δ pl c pr` and `F = E + δ pl pr/d`:
///
///     F w_n + E (α w_{n−1} + β w_{n+1}) = ρ x_n;   F y_n = x_n + δ pl (α w_{n−1} + β w_{n+1});   α, β, ρ = dl, du, pr over d
///
/// Elimination without pivoting gives `g = p x + l g_{n−1}`, `w = g + v w_{n+1}`, and these turn `w_{n−1}` to `g_{n−1}` and
/// `w_{n+1}`. No quantity is divided by `E`, which vanishes where `n ≈ 1/δ`.
private struct SemiseparableStep {
    let step: Double
    private let half: Double
    private let states: [TransitionState]
    private var rows: [Row]

    /// A state's entries of the table, and what they come from.
    private struct Row {
        var e = 0.0, f = 0.0, alpha = 0.0, beta = 0.0, rho = 0.0, inverse = 0.0
        /// `2δ pl/F` and `2δ pl α/F · v_{n−1}`.
        var kappa = 0.0, turned = 0.0
        var a = 0.0, b = 0.0, p = 0.0, l = 0.0, v = 0.0, h = 0.0, m = 0.0
        /// Of the input: `δ pl b`, and `g` and `w` for it.
        var input = 0.0, g = 0.0, w = 0.0
    }

    init(_ states: [TransitionState], step: Double) {
        (self.step, self.states) = (step, states)
        let half = step / 2
        self.half = half
        let count = states.count
        rows = Array(repeating: Row(), count: count)
        var past = Row()
        for (n, s) in states.enumerated() {
            var r = Row()
            r.alpha = n > 0 ? s.dl / s.d : 0
            r.beta = n < count - 1 ? s.du / s.d : 0
            r.rho = s.pr / s.d
            r.e = 1 + half * s.pl * s.c * s.pr
            r.f = r.e + half * s.pl * r.rho
            r.inverse = 1 / (r.f + r.e * r.alpha * past.v)
            r.p = r.rho * r.inverse
            r.l = -r.e * r.alpha * r.inverse
            r.v = -r.e * r.beta * r.inverse
            r.kappa = step * s.pl / r.f
            r.turned = r.kappa * r.alpha * past.v
            r.a = 2 / r.f - 1 + r.turned * r.p
            r.h = r.kappa * r.alpha + r.turned * r.l
            r.m = r.kappa * r.beta + r.turned * r.v
            r.input = half * s.pl * s.b
            r.g = r.p * r.input + r.l * past.g
            rows[n] = r
            past = r
        }
        // Δ (I − δA)⁻¹ B is a step from δB, plus δB.
        var above = 0.0
        for n in rows.indices.reversed() {
            let below = n > 0 ? rows[n - 1].g : 0
            rows[n].b = (rows[n].a + 1) * rows[n].input + rows[n].h * below + rows[n].m * above
            above = rows[n].g + rows[n].v * above
            rows[n].w = above
        }
    }

    /// - Parameters:
    ///   - readout: `C`, `N` elements. - table: `[N, 8]`, written.
    func store(readout: UnsafePointer<Float>, into table: UnsafeMutablePointer<Float>) {
        for (n, r) in rows.enumerated() {
            let values = [r.a, r.b, Double(readout[n]), r.h, r.p, r.l, r.v, r.m]
            for (column, value) in values.enumerated() { table[n * 8 + column] = Float(value) }
        }
    }

    /// - Parameters:
    ///   - gradient: of the table, `[N, 8]`. - dReadout: of `C`, added to.
    func gradients(
        _ gradient: UnsafePointer<Float>, dReadout: UnsafeMutablePointer<Float>
    ) -> (step: Double, states: [TransitionState]) {
        let count = rows.count
        var d = (0..<count).map { n -> Row in
            func column(_ k: Int) -> Double { Double(gradient[n * 8 + k]) }
            dReadout[n] += Float(column(2))
            return Row(
                a: column(0), b: column(1), p: column(4), l: column(5), v: column(6), h: column(3), m: column(7))
        }
        inputGradients(&d)
        var dHalf = 0.0
        var dStates = [TransitionState](repeating: TransitionState(), count: count)
        var laterV = 0.0
        for n in (0..<count).reversed() {
            let (s, r, pastV) = (states[n], rows[n], n > 0 ? rows[n - 1].v : 0)
            var t = TransitionState()
            // a, h, m: w_{n−1} turned to g_{n−1}.
            let dTurned = r.p * d[n].a + r.l * d[n].h + r.v * d[n].m
            let dp = d[n].p + r.turned * d[n].a
            let dl = d[n].l + r.turned * d[n].h
            let dv = d[n].v + r.turned * d[n].m + laterV
            let dBelow = d[n].h + pastV * dTurned
            let dKappa = r.alpha * dBelow + r.beta * d[n].m
            // Elimination.
            let dInverse = r.rho * dp - r.e * (r.alpha * dl + r.beta * dv)
            let dPivot = -r.inverse * r.inverse * dInverse
            laterV = r.kappa * r.alpha * dTurned + r.e * r.alpha * dPivot
            let dAlpha = r.kappa * dBelow - r.e * r.inverse * dl + r.e * pastV * dPivot
            let dBeta = r.kappa * d[n].m - r.e * r.inverse * dv
            let dF = dPivot - (r.kappa * dKappa + 2 / r.f * d[n].a) / r.f
            let dE = dF + r.alpha * pastV * dPivot - r.inverse * (r.alpha * dl + r.beta * dv)
            let dRho = r.inverse * dp + half * s.pl * dF
            // The seven vectors and δ.
            dHalf += 2 * s.pl / r.f * dKappa + s.pl * (r.rho * dF + s.c * s.pr * dE + s.b * d[n].input)
            t.pl = 2 * half / r.f * dKappa + half * (r.rho * dF + s.c * s.pr * dE + s.b * d[n].input)
            t.b = half * s.pl * d[n].input
            t.c = half * s.pl * s.pr * dE
            t.pr = half * s.pl * s.c * dE + dRho / s.d
            t.dl = n > 0 ? dAlpha / s.d : 0
            t.du = n < count - 1 ? dBeta / s.d : 0
            t.d = -(r.alpha * dAlpha + r.beta * dBeta + r.rho * dRho) / s.d
            dStates[n] = t
        }
        return (dHalf / 2, dStates)
    }

    /// Adds what `b` gives to the gradients of the other columns and of `input`.
    private func inputGradients(_ d: inout [Row]) {
        var omega = 0.0
        for n in rows.indices {
            let (r, slope) = (rows[n], d[n].b)
            let (below, above) = (n > 0 ? rows[n - 1].g : 0, n < rows.count - 1 ? rows[n + 1].w : 0)
            d[n].a += slope * r.input
            d[n].h += slope * below
            d[n].m += slope * above
            d[n].v += omega * above
            d[n].w = omega
            d[n].input = (r.a + 1) * slope
            omega = r.m * slope + r.v * omega
        }
        var fromAbove = 0.0
        for n in rows.indices.reversed() {
            let (r, below) = (rows[n], n > 0 ? rows[n - 1].g : 0)
            let gamma = d[n].w + fromAbove
            d[n].l += gamma * below
            d[n].p += gamma * r.input
            d[n].input += r.p * gamma
            fromAbove = r.h * d[n].b + r.l * gamma
        }
    }
}
