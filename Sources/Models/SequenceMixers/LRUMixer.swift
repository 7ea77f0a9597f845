import Autograd
import Glibc
import Kernels
import Tensors

/// Linear recurrent unit: complex states inside the unit circle, parametrised by decay and angle.
///
///     λ = exp(−e^{ν} + i e^{θ});   x ← λ x + e^{γ} ⊙ (B u);   y = Re(C x) + D u;   out = full GLU of gelu(y)
///
/// Keys: `d_hidden` N (the width), `r_min` (0), `r_max` (1), `max_phase` (6.28).
/// Parameters under `mixer.`: `nu_log`, `theta_log`, `gamma_log [N]`, `B_re`, `B_im [N, D]`, `C_re`, `C_im [D, N]`, `D [D]`,
/// `out1`, `out2` `.weight [D, D]`, `.bias [D]`. No weight decay on the vectors. The start spreads `|λ|²` and the angles
/// evenly over the ring instead of drawing them; `γ` makes the states of white noise as large as their inputs.
/// Carry: `x [B, N·2]`, pairs. Cost per token: 8·N·D + 8·N + 4·D² FLOPs; linear in T.
/// Source: arXiv 2303.06349; NicolasZucchet/minimal-LRU.
public final class LRUMixer: SequenceMixer {
    public static let name = "lru"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["x"]
    private let core: ComplexStateSpace
    private let skip: ParameterUse
    private let output: GatedActivationLayer

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        let count = try reader.int("d_hidden", default: width, in: 1...65_536)
        let smallest = try reader.double("r_min", default: 0, in: 0...1)
        let largest = try reader.double("r_max", default: 1, in: 0...1)
        if largest <= smallest { throw reader.error("r_max", "\(largest) is not above r_min \(smallest)") }
        let phase = try reader.double("max_phase", default: 6.28, above: 0)
        outputWidth = width

        var (decays, angles, gains) = ([Float](), [Float](), [Float]())
        for n in 0..<count {
            let radius =
                smallest * smallest
                + (Double(n) + 0.5) / Double(count) * (largest * largest - smallest * smallest)
            // Multiples of the golden ratio: every stretch of radii gets all angles.
            let turn = (0.5 + Double(n) * 0.618_033_988_749_894_9).truncatingRemainder(dividingBy: 1)
            decays.append(Float(log(-0.5 * log(radius))))
            angles.append(Float(log(phase * max(turn, 1e-6))))
            gains.append(Float(0.5 * log(1 - radius)))
        }
        func matrix(_ name: String, _ rows: Int, _ columns: Int, fanIn: Int) -> ParameterUse {
            builder.matrix("mixer.\(name)", rows, columns, .normal(standardDeviation: 1 / Float(fanIn).squareRoot()))
        }
        let sources = [
            builder.vector("mixer.nu_log", count, .values(decays)),
            builder.vector("mixer.theta_log", count, .values(angles)),
            builder.vector("mixer.gamma_log", count, .values(gains)),
            matrix("B_re", count, width, fanIn: 2 * width), matrix("B_im", count, width, fanIn: 2 * width),
            matrix("C_re", width, count, fanIn: count), matrix("C_im", width, count, fanIn: count),
        ]
        skip = builder.vector("mixer.D", width, .normal(standardDeviation: 1))
        output = GatedActivationLayer(.fullGLU, width: width, builder)
        core = ComplexStateSpace(
            parameters: Self.derived(from: sources, count: count, width: width), stateCount: count, width: width)
    }

    private static func derived(from sources: [ParameterUse], count: Int, width: Int) -> DerivedTensors {
        func eigenvalue(_ n: Int, _ sources: [UnsafePointer<Float>]) -> Complex {
            Complex.exp(Complex(-exp(Double(sources[0][n])), exp(Double(sources[1][n]))))
        }
        return DerivedTensors(from: sources, to: ComplexStateSpace.shapes(stateCount: count, width: width)) {
            sources, outputs, _ in
            for n in 0..<count {
                let value = eigenvalue(n, sources)
                outputs[0][n] = Float(value.re)
                outputs[0][count + n] = Float(value.im)
                let gain = exp(sources[2][n])
                for d in 0..<width {
                    outputs[1][n * width + d] = gain * sources[3][n * width + d]
                    outputs[1][(count + n) * width + d] = gain * sources[4][n * width + d]
                }
            }
            for d in 0..<width {
                for n in 0..<count {
                    outputs[2][d * 2 * count + n] = sources[5][d * count + n]
                    outputs[2][(d * 2 + 1) * count + n] = -sources[6][d * count + n]
                }
            }
        } chain: { sources, gradients, sums, _ in
            for n in 0..<count {
                // λ = e^z, so dz = conj(λ) dλ, and z moves with −e^ν and i e^θ.
                let dValue = Complex(Double(gradients[0][n]), Double(gradients[0][count + n]))
                let dz = eigenvalue(n, sources).conjugate * dValue
                sums[0][n] -= Float(dz.re * exp(Double(sources[0][n])))
                sums[1][n] += Float(dz.im * exp(Double(sources[1][n])))
                let gain = exp(sources[2][n])
                var dGain = 0.0
                for d in 0..<width {
                    let index = n * width + d
                    let (dRe, dIm) = (gradients[1][index], gradients[1][(count + n) * width + d])
                    sums[3][index] += gain * dRe
                    sums[4][index] += gain * dIm
                    dGain += Double(sources[3][index] * dRe) + Double(sources[4][index] * dIm)
                }
                sums[2][n] += Float(dGain * Double(gain))
            }
            for d in 0..<width {
                for n in 0..<count {
                    sums[5][d * count + n] += gradients[2][d * 2 * count + n]
                    sums[6][d * count + n] -= gradients[2][(d * 2 + 1) * count + n]
                }
            }
        }
    }

    public func forward(_ u: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let (y, state) = core(u, carry: carry, pass)
        return (output(pass.tape.add(y, u, scaledBy: skip), pass.tape), [state])
    }

    public func flopsPerToken(time: Int) -> Double {
        core.flopsPerToken + Double(2 * outputWidth) + output.flopsPerToken
    }

    /// Inputs and states of the scan, and about seven rows of the activation.
    public var savedPerToken: Int { 4 * core.stateCount + 7 * outputWidth }
}
