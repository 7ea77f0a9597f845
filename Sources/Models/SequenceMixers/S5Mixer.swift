import Autograd
import Glibc
import Kernels
import Tensors

/// S5: one diagonal state space of `P` complex states for all features, started from HiPPO-LegS.
///
///     x ← ā x + B̄ u;   y = 2 Re(C x) + D u;   out = gated activation of y
///
/// `ā`, `B̄ = diag(b̄) B` are discretised per state with the poles `Λ` and steps `e^{log_step}`.
/// Keys: `ssm_size` 2P (256), `blocks` of the HiPPO matrix (8), `discretization` `zoh` | `bilinear`, `clip_eigs` (false;
/// `Re Λ ≤ −1e-4`), `dt_min` (1e-3), `dt_max` (0.1), `step_rescale` (1), `activation`: `half_glu1` | `half_glu2` |
/// `full_glu` | `gelu`.
/// Parameters under `mixer.`: `Lambda_re`, `Lambda_im [P]`, `B [P, D, 2]`, `C [D, P, 2]`, `D [D]`, `log_step [P, 1]`,
/// `out1`, `out2` `.weight [D, D]`, `.bias [D]` as the activation needs them. `B` and `C` are drawn after the rotation by
/// HiPPO's eigenvectors, which leaves their distribution as it is. No weight decay on `Lambda_*`, `log_step`, `D`.
/// Carry: `x [B, P·2]`, pairs. Cost per token: 8·P·D + 8·P FLOPs, and 2·D² per gate matrix; linear in T.
/// Source: arXiv 2208.04933; lindermanlab/S5.
public final class S5Mixer: SequenceMixer {
    public static let name = "s5"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["x"]
    private let core: ComplexStateSpace
    private let skip: ParameterUse
    private let output: GatedActivationLayer

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        let size = try reader.int("ssm_size", default: 256, in: 2...65_536)
        let blocks = try reader.int("blocks", default: 8, in: 1...32_768)
        if size % (2 * blocks) != 0 {
            throw reader.error("ssm_size", "\(size) is not a multiple of 2·blocks = \(2 * blocks)")
        }
        let discretization = try reader.choice(
            "discretization", as: Discretization.self, default: .zeroOrderHold)
        let clips = try reader.bool("clip_eigs", default: false)
        let steps = try StepRange(reader)
        let rescale = try reader.double("step_rescale", default: 1, above: 0)
        let activation = try reader.choice("activation", as: GatedActivation.self, default: .halfGLU1)
        let count = size / 2
        outputWidth = width

        let frequencies = HiPPO.legS(size: size / blocks).frequencies.map { Float($0) }
        let sources = [
            builder.vector("mixer.Lambda_re", count, .values([Float](repeating: -0.5, count: count))),
            builder.vector("mixer.Lambda_im", count, .values((0..<blocks).flatMap { _ in frequencies })),
            builder.tensor(
                "mixer.B", Shape(count, width, 2), .normal(standardDeviation: 0.5 / Float(count).squareRoot()),
                decays: true),
            builder.tensor(
                "mixer.C", Shape(width, count, 2), .normal(standardDeviation: 1 / Float(size).squareRoot()),
                decays: true),
            builder.tensor("mixer.log_step", Shape(count, 1), steps.logarithm(rows: count), decays: false),
        ]
        skip = builder.vector("mixer.D", width, .normal(standardDeviation: 1))
        output = GatedActivationLayer(activation, width: width, builder)
        let transform = Transform(
            count: count, width: width, discretization: discretization, clips: clips, rescale: rescale)
        core = ComplexStateSpace(
            parameters: DerivedTensors(
                from: sources, to: ComplexStateSpace.shapes(stateCount: count, width: width),
                compute: transform.compute, chain: transform.chain),
            stateCount: count, width: width)
    }

    public func forward(_ u: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let (y, state) = core(u, carry: carry, pass)
        return (output(pass.tape.add(y, u, scaledBy: skip), pass.tape), [state])
    }

    public func flopsPerToken(time: Int) -> Double {
        core.flopsPerToken + Double(2 * outputWidth) + output.flopsPerToken
    }

    /// Inputs and states of the scan, and about six rows of the activation.
    public var savedPerToken: Int { 4 * core.stateCount + 6 * outputWidth }

    /// From the parameters to `λ`, `B̂`, `Ĉ` of the core.
    private struct Transform {
        let count, width: Int
        let discretization: Discretization
        let clips: Bool
        let rescale: Double

        private func state(_ p: Int, _ sources: [UnsafePointer<Float>]) -> (pole: Complex, step: Double) {
            let re = Double(sources[0][p])
            let pole = Complex(clips ? min(re, -1e-4) : re, Double(sources[1][p]))
            return (pole, rescale * exp(Double(sources[4][p])))
        }

        func compute(
            _ sources: [UnsafePointer<Float>], _ outputs: [UnsafeMutablePointer<Float>], _: ThreadPool
        ) {
            for p in 0..<count {
                let (pole, step) = state(p, sources)
                let (a, b) = discretization(pole: pole, step: step)
                outputs[0][p] = Float(a.re)
                outputs[0][count + p] = Float(a.im)
                for d in 0..<width {
                    let scaled = b * Complex(sources[2] + 2 * (p * width + d))
                    outputs[1][p * width + d] = Float(scaled.re)
                    outputs[1][(count + p) * width + d] = Float(scaled.im)
                }
            }
            for d in 0..<width {
                for p in 0..<count {
                    let c = sources[3] + 2 * (d * count + p)
                    outputs[2][d * 2 * count + p] = 2 * c[0]
                    outputs[2][(d * 2 + 1) * count + p] = -2 * c[1]
                }
            }
        }

        func chain(
            _ sources: [UnsafePointer<Float>], _ gradients: [UnsafePointer<Float>],
            _ sums: [UnsafeMutablePointer<Float>], _: ThreadPool
        ) {
            for p in 0..<count {
                let (pole, step) = state(p, sources)
                let b = discretization(pole: pole, step: step).b
                var db = Complex(0)
                for d in 0..<width {
                    let index = p * width + d
                    let dScaled = Complex(
                        Double(gradients[1][index]), Double(gradients[1][(count + p) * width + d]))
                    (b.conjugate * dScaled).add(to: sums[2] + 2 * index)
                    db += Complex(sources[2] + 2 * index).conjugate * dScaled
                }
                let da = Complex(Double(gradients[0][p]), Double(gradients[0][count + p]))
                let d = discretization.gradient(pole: pole, step: step, da: da, db: db)
                if !(clips && Double(sources[0][p]) > -1e-4) { sums[0][p] += Float(d.pole.re) }
                sums[1][p] += Float(d.pole.im)
                sums[4][p] += Float(d.step * step)
            }
            for d in 0..<width {
                for p in 0..<count {
                    let sum = sums[3] + 2 * (d * count + p)
                    sum[0] += 2 * gradients[2][d * 2 * count + p]
                    sum[1] -= 2 * gradients[2][(d * 2 + 1) * count + p]
                }
            }
        }
    }
}
