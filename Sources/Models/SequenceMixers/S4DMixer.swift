import Autograd
import Glibc
import Kernels
import Tensors

/// S4D: a diagonal state space of `n = N/2` complex poles per feature.
///
///     x ← a x + b u;   y = 2 Re Σ_n C_n x_n + D u;   out = GLU(gelu(y));   a, b = discretised A = −e^{log_A_real} + i A_imag
///
/// Keys: `d_state` N (64), `dt_min` (1e-3), `dt_max` (0.1), `init` of `A_imag`: `lin` (πk), `inv` ((N/π)(N/(2k+1) − 1)),
/// `legs` (the spectrum of HiPPO-LegS), `real` (A = −(k+1)); `disc`: `zoh` or `bilinear`.
/// Parameters under `mixer.`: `kernel.log_dt [D]`, `kernel.C [D, n, 2]` (pairs, N(½) each), `kernel.log_A_real`,
/// `kernel.A_imag [D, n]`, `D [D]`, `output_linear.0.weight [2D, D]`, `.bias [2D]`. No weight decay on the first five.
/// Carry: `x [B, D·n·2]`, pairs. Cost per token: 16·n·D of the scan, 4·D² of the GLU; linear in T.
/// The scan replaces the long convolution of the paper: comparable FLOPs, and the carry is exact.
/// Source: arXiv 2206.11893; state-spaces/s4, `s4d.py`.
public final class S4DMixer: SequenceMixer {
    public static let name = "s4d"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["x"]
    private let stateCount: Int
    private let table: DerivedTensors
    private let skip: ParameterUse
    private let output: GatedOutput

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        let size = try reader.int("d_state", default: 64, in: 2...4096)
        if size % 2 != 0 { throw reader.error("d_state", "\(size) is odd; states come in conjugate pairs") }
        let steps = try StepRange(reader)
        let spectrum = try reader.choice("init", of: ["lin", "inv", "legs", "real"], default: "lin")
        let discretization = try reader.choice("disc", as: Discretization.self, default: .zeroOrderHold)
        let count = size / 2
        (outputWidth, stateCount) = (width, count)

        let logSteps = builder.vector("mixer.kernel.log_dt", width, steps.logarithm(rows: width))
        let readout = builder.tensor(
            "mixer.kernel.C", Shape(width, count, 2), .normal(standardDeviation: Float(0.5).squareRoot()),
            decays: false)
        let imaginary = (0..<count).map { k -> Float in
            switch spectrum {
            case "lin": Float(Double.pi * Double(k))
            case "inv": Float(Double(size) / .pi * (Double(size) / Double(2 * k + 1) - 1))
            case "legs": Float(-HiPPO.legS(size: size).frequencies[k])
            default: 0
            }
        }
        let real = (0..<count).map { spectrum == "real" ? log(Float($0 + 1)) : log(0.5) }
        let shape = Shape(width, count)
        let logReal = builder.tensor(
            "mixer.kernel.log_A_real", shape, .values((0..<width).flatMap { _ in real }), decays: false)
        let imaginaryPart = builder.tensor(
            "mixer.kernel.A_imag", shape, .values((0..<width).flatMap { _ in imaginary }), decays: false)
        skip = builder.vector("mixer.D", width, .normal(standardDeviation: 1))
        output = GatedOutput("mixer.output_linear.0", width: width, builder)
        table = Self.table(
            from: [logSteps, readout, logReal, imaginaryPart], width: width, count: count, discretization)
    }

    /// Rows `a, b, 2C` for every feature and state.
    private static func table(
        from sources: [ParameterUse], width: Int, count: Int, _ discretization: Discretization
    ) -> DerivedTensors {
        func pole(_ sources: [UnsafePointer<Float>], _ index: Int) -> Complex {
            Complex(-exp(Double(sources[2][index])), Double(sources[3][index]))
        }
        return DerivedTensors(from: sources, to: [Shape(width, count, 6)]) { sources, outputs, _ in
            for index in 0..<width * count {
                let step = exp(Double(sources[0][index / count]))
                let (a, b) = discretization(pole: pole(sources, index), step: step)
                let row = outputs[0] + 6 * index
                a.store(at: row)
                b.store(at: row + 2)
                (2 * Complex(sources[1] + 2 * index)).store(at: row + 4)
            }
        } chain: { sources, gradients, sums, _ in
            for feature in 0..<width {
                let step = exp(Double(sources[0][feature]))
                var dStep = 0.0
                for index in feature * count..<(feature + 1) * count {
                    let (pole, row) = (pole(sources, index), gradients[0] + 6 * index)
                    let d = discretization.gradient(
                        pole: pole, step: step, da: Complex(row), db: Complex(row + 2))
                    dStep += d.step
                    (2 * Complex(row + 4)).add(to: sums[1] + 2 * index)
                    sums[2][index] += Float(d.pole.re * pole.re)
                    sums[3][index] += Float(d.pole.im)
                }
                sums[0][feature] += Float(dStep * step)
            }
        }
    }

    public func forward(_ u: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (y, state) = tape.stateSpace(
            u, table: tape.derived(table)[0], skip: skip, batch: pass.batch, time: pass.time, state: carry["x"])
        return (output(y, tape), [CarryTensor(name: "x", variable: state)])
    }

    public func flopsPerToken(time: Int) -> Double {
        Double(outputWidth * (16 * stateCount + 2)) + output.flopsPerToken
    }

    /// The input, the scan's output, gelu, both halves of the GLU; a state every 32 steps.
    public var savedPerToken: Int { outputWidth * (5 + stateCount / 16) }
}
