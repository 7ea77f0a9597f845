import Autograd
import Glibc
import Kernels
import Tensors

/// S4: a state space whose transition is diagonal plus rank one, started from HiPPO-LegS.
///
/// With `n = N/2` complex states per feature (half of a conjugate spectrum, `⟨p, x⟩ = 2 Re Σ p̄ x`):
///
///     A x = Λ x − P ⟨P, x⟩;   x ← (I − ΔA/2)⁻¹ ((I + ΔA/2) x + Δ B u);   y = 2 Re Σ C x + D u;   out = GLU(gelu(y))
///
/// The inverse is diagonal plus rank one as well, so a step costs O(n), and no convolution is needed.
///
/// Keys: `d_state` N (64), `n_ssm` S (1) copies of `A`, `B`, `P`, of which feature h uses copy h mod S; `dt_min` (1e-3),
/// `dt_max` (0.1), `dt_transform`: `exp` or `softplus`.
/// Parameters under `mixer.`: `kernel.inv_dt [D, 1]`, `kernel.A_real`, `kernel.A_imag [S, n]` (`Λ = −e^{A_real} − i A_imag`),
/// `kernel.B`, `kernel.P [1, S, n, 2]`, `kernel.C [1, D, n, 2]` (pairs), `D [1, D]`, `output_linear.0.weight [2D, D]`,
/// `.bias [2D]`. No weight decay on all but the last two. The phases of HiPPO's eigenvectors are chosen so that `P` and `B`
/// start positive. `kernel.C` is the true `C`; files of the published code hold `C (I − Ā^L)`.
/// Carry: `x [B, D·n·2]`, pairs. Cost per token: 24·n·D of the scan, 4·D² of the GLU; linear in T.
/// Source: arXiv 2111.00396, appendix C; state-spaces/s4, `kernels/ssm.py` (SSMKernelDPLR).
public final class S4Mixer: SequenceMixer {
    public static let name = "s4"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["x"]
    private let stateCount: Int
    private let table: DerivedTensors
    private let skip: ParameterUse
    private let output: GatedOutput

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        let size = try reader.int("d_state", default: 64, in: 2...1024)
        if size % 2 != 0 { throw reader.error("d_state", "\(size) is odd; states come in conjugate pairs") }
        let copies = try reader.int("n_ssm", default: 1, in: 1...65_536)
        if width % copies != 0 { throw reader.error("n_ssm", "\(copies) does not divide the width \(width)") }
        let steps = try StepRange(reader)
        let hasSoftplusSteps = try reader.choice("dt_transform", of: ["exp", "softplus"], default: "exp") == "softplus"
        let count = size / 2
        (outputWidth, stateCount) = (width, count)

        let hippo = HiPPO.legS(size: size)
        func copied(_ values: [Double]) -> Initializer {
            .values((0..<copies).flatMap { _ in values.map { Float($0) } })
        }
        func pairs(_ scale: Double) -> Initializer { copied(hippo.projections.flatMap { [scale * $0, 0] }) }
        let sources = [
            builder.tensor(
                "mixer.kernel.inv_dt", Shape(width, 1),
                hasSoftplusSteps ? steps.softplusBias() : steps.logarithm(rows: width), decays: false),
            builder.tensor("mixer.kernel.A_real", Shape(copies, count), .constant(log(0.5)), decays: false),
            builder.tensor(
                "mixer.kernel.A_imag", Shape(copies, count), copied(hippo.frequencies.map { -$0 }), decays: false),
            builder.tensor("mixer.kernel.B", Shape(1, copies, count, 2), pairs(2.squareRoot()), decays: false),
            builder.tensor("mixer.kernel.P", Shape(1, copies, count, 2), pairs(1), decays: false),
            builder.tensor(
                "mixer.kernel.C", Shape(1, width, count, 2), .normal(standardDeviation: Float(0.5).squareRoot()),
                decays: false),
        ]
        skip = builder.tensor("mixer.D", Shape(1, width), .normal(standardDeviation: 1), decays: false)
        output = GatedOutput("mixer.output_linear.0", width: width, builder)
        let transform = DiagonalPlusRankOne(width: width, copies: copies, count: count, softplus: hasSoftplusSteps)
        table = DerivedTensors(
            from: sources, to: [Shape(width, count, 10)],
            compute: { sources, outputs, _ in transform.table(sources, into: outputs[0]) },
            chain: { sources, gradients, sums, _ in transform.chain(sources, gradients[0], addingTo: sums) })
    }

    public func forward(_ u: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (y, state) = tape.stateSpace(
            u, table: tape.derived(table)[0], skip: skip, batch: pass.batch, time: pass.time, state: carry["x"])
        return (output(y, tape), [CarryTensor(name: "x", variable: state)])
    }

    public func flopsPerToken(time: Int) -> Double {
        Double(outputWidth * (24 * stateCount + 2)) + output.flopsPerToken
    }

    /// The input, the scan's output, gelu, both halves of the GLU; a state every 32 steps.
    public var savedPerToken: Int { outputWidth * (5 + stateCount / 16) }
}

/// The step of S4 as rows `a, b, c, f, w` of a `StateSpaceScan`, and its gradients. For a feature with step Δ, `δ = Δ/2`,
/// `E = 1/(1 − δΛ)`, `q = 1 + 2δ Re Σ |P|² E` and `β = 2Δ Re Σ P̄ E B`:
///
///     a = 2E − 1;   c = 2C;   w = 4 P̄ E / q;   f = −δ E P;   b = Δ E B + f β/q
///
/// which is the Woodbury identity for `(I − δA)⁻¹ (I + δA)` and `(I − δA)⁻¹ Δ B`.
private struct DiagonalPlusRankOne {
    let width, copies, count: Int
    let softplus: Bool

    /// What one feature's rows are made of.
    private struct Feature {
        var step: Double
        var stepSlope: Double
        var poles, inputs, lows, inverses: [Complex]
        var q = 1.0, beta = 0.0
    }

    private func feature(_ index: Int, _ sources: [UnsafePointer<Float>]) -> Feature {
        let raw = Double(sources[0][index])
        let step = softplus ? max(raw, 0) + log1p(exp(-abs(raw))) : exp(raw)
        let states = (index % copies * count)..<(index % copies + 1) * count
        let poles = states.map { Complex(-exp(Double(sources[1][$0])), -Double(sources[2][$0])) }
        var result = Feature(
            step: step, stepSlope: softplus ? 1 / (1 + exp(-raw)) : step, poles: poles,
            inputs: states.map { Complex(sources[3] + 2 * $0) }, lows: states.map { Complex(sources[4] + 2 * $0) },
            inverses: poles.map { Complex(1) / (Complex(1) - (step / 2) * $0) })
        for n in 0..<count {
            let (low, inverse) = (result.lows[n], result.inverses[n])
            result.q += step * low.squaredMagnitude * inverse.re
            result.beta += 2 * step * (low.conjugate * inverse * result.inputs[n]).re
        }
        return result
    }

    func table(_ sources: [UnsafePointer<Float>], into table: UnsafeMutablePointer<Float>) {
        for index in 0..<width {
            let feature = feature(index, sources)
            for n in 0..<count {
                let row = table + (index * count + n) * 10
                let (inverse, low) = (feature.inverses[n], feature.lows[n])
                let f = -feature.step / 2 * (inverse * low)
                (2 * inverse - Complex(1)).store(at: row)
                (feature.step * (inverse * feature.inputs[n]) + feature.beta / feature.q * f).store(at: row + 2)
                (2 * Complex(sources[5] + 2 * (index * count + n))).store(at: row + 4)
                f.store(at: row + 6)
                (4 / feature.q * (low.conjugate * inverse)).store(at: row + 8)
            }
        }
    }

    func chain(
        _ sources: [UnsafePointer<Float>], _ gradients: UnsafePointer<Float>,
        addingTo sums: [UnsafeMutablePointer<Float>]
    ) {
        let none = [Complex](repeating: Complex(0), count: copies * count)
        var (dPoles, dInputs, dLows) = (none, none, none)
        for index in 0..<width {
            let feature = feature(index, sources)
            let (step, q, beta) = (feature.step, feature.q, feature.beta)
            let rows = gradients + index * count * 10
            // First what all states share: q and β.
            var (dStep, dQ, dBeta) = (0.0, 0.0, 0.0)
            for n in 0..<count {
                let (inverse, low) = (feature.inverses[n], feature.lows[n])
                let (db, dw) = (Complex(rows + 10 * n + 2), Complex(rows + 10 * n + 8))
                let through = realProduct(-step / 2 * (inverse * low), db)
                dBeta += through / q
                dQ -= through * beta / (q * q) + realProduct(4 / q * (low.conjugate * inverse), dw) / q
            }
            for n in 0..<count {
                let (inverse, low, input) = (feature.inverses[n], feature.lows[n], feature.inputs[n])
                let row = rows + 10 * n
                let (db, dw) = (Complex(row + 2), Complex(row + 8))
                let df = Complex(row + 6) + beta / q * db
                var dInverse = 2 * Complex(row) + 4 / q * (low * dw) - step / 2 * (low.conjugate * df)
                dInverse += step * (input.conjugate * db) + 2 * step * dBeta * (low * input.conjugate)
                dInverse += Complex(step * low.squaredMagnitude * dQ)
                var dLow = 4 / q * (inverse * dw.conjugate) - step / 2 * (inverse.conjugate * df)
                dLow += 2 * step * dBeta * (inverse * input) + 2 * step * inverse.re * dQ * low
                let state = index % copies * count + n
                dLows[state] += dLow
                dInputs[state] += step * (inverse.conjugate * db) + 2 * step * dBeta * (low * inverse.conjugate)
                let square = inverse * inverse
                dPoles[state] += step / 2 * (square.conjugate * dInverse)
                dStep += realProduct(inverse * input, db) - 0.5 * realProduct(inverse * low, df)
                dStep += 0.5 * realProduct(feature.poles[n] * square, dInverse)
                (2 * Complex(row + 4)).add(to: sums[5] + 2 * (index * count + n))
            }
            dStep += dBeta * beta / step + dQ * (q - 1) / step
            sums[0][index] += Float(dStep * feature.stepSlope)
        }
        for state in 0..<copies * count {
            sums[1][state] += Float(-exp(Double(sources[1][state])) * dPoles[state].re)
            sums[2][state] += Float(-dPoles[state].im)
            dInputs[state].add(to: sums[3] + 2 * state)
            dLows[state].add(to: sums[4] + 2 * state)
        }
    }
}
