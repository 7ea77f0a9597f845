import Autograd
import Kernels
import Tensors

/// Legendre memory unit: a tanh network beside a linear memory of the last θ values of one learnt signal.
///
///     u_t = e_x·x_t + e_h·h_{t−1} + e_m·m_{t−1};   m_t = Ā m_{t−1} + B̄ u_t;   h_t = tanh(W_x x_t + W_h h_{t−1} + W_m m_t)
///
/// `Ā`, `B̄` are fixed (`LegendreMemory`). Put in terms of the old state, both parts are one recurrent network of H + m units,
/// of which m are linear, with weights computed from the parameters; it runs in the loop of the Elman network.
/// Keys: `hidden_size` H (the width), `memory_size` m (required), `theta` θ, in tokens (required).
/// Parameters under `mixer.`: `e_x [1, D]`, `e_h [1, H]` from U(√(3/D)) and U(√(3/H)), `e_m [1, m]` zero, `W_x [H, D]`, `W_h [H, H]`,
/// `W_m [H, m]` normal after Xavier.
/// Carry: `h [B, H]`, `m [B, m]`. Cost per token: 2·(H + m)·(D + H + m) FLOPs.
/// Source: Voelker, Kajić, Eliasmith 2019; hrshtv/pytorch-lmu.
public final class LMUMixer: SequenceMixer {
    public static let name = "lmu"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["h", "m"]
    private let inputWidth, memorySize: Int
    private let weights: DerivedTensors

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        let hidden = try reader.int("hidden_size", default: width, in: 1...65_536)
        let memory = try reader.int("memory_size", default: nil, in: 1...4096)
        let window = try reader.double("theta", default: nil, above: 0)
        (inputWidth, outputWidth, memorySize) = (width, hidden, memory)

        func encoder(_ name: String, _ count: Int) -> ParameterUse {
            builder.matrix("mixer.\(name)", 1, count, .uniform(bound: Float(3 / Double(count)).squareRoot()))
        }
        func matrix(_ name: String, _ columns: Int) -> ParameterUse {
            builder.matrix(
                "mixer.\(name)", hidden, columns,
                .normal(standardDeviation: Float(2 / Double(hidden + columns)).squareRoot()))
        }
        let sources = [
            encoder("e_x", width), encoder("e_h", hidden), builder.matrix("mixer.e_m", 1, memory, .constant(0)),
            matrix("W_x", width), matrix("W_h", hidden), matrix("W_m", memory),
        ]
        let size = hidden + memory
        let transform = Transform(width: width, hidden: hidden, memory: memory, window: window)
        weights = DerivedTensors(
            from: sources, to: [Shape(size, width), Shape(size, size)], compute: transform.compute,
            chain: transform.chain)
    }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let derived = tape.derived(weights)
        var state: Variable?
        if let h = carry["h"], let m = carry["m"] { state = tape.concatenateColumns(h, m) }
        let (states, final) = tape.partlyLinear(
            tape.linear(x, weight: derived[0]), weight: derived[1], tanhCount: outputWidth, batch: pass.batch,
            time: pass.time, state: state)
        let size = outputWidth + memorySize
        let carryOut = [
            CarryTensor(name: "h", variable: tape.columns(final, 0..<outputWidth)),
            CarryTensor(name: "m", variable: tape.columns(final, outputWidth..<size)),
        ]
        return (tape.columns(states, 0..<outputWidth), carryOut)
    }

    public func flopsPerToken(time: Int) -> Double {
        let size = outputWidth + memorySize
        return Double(2 * size * (inputWidth + size))
    }

    /// The input, pre-activations and states, the output.
    public var savedPerToken: Int { inputWidth + 2 * (outputWidth + memorySize) + outputWidth }

    /// With `A' = Ā + B̄ e_mᵀ` and `b = W_m B̄`: input weight `[W_x + b e_xᵀ; B̄ e_xᵀ]`, recurrent weight
    /// `[[W_h + b e_hᵀ, W_m A'], [B̄ e_hᵀ, A']]`.
    private struct Transform {
        let width, hidden, memory: Int
        let window: Double
        private var size: Int { hidden + memory }

        /// `A' [m, m]` and `b [H]`.
        private func common(
            _ sources: [UnsafePointer<Float>], _ system: LegendreMemory
        ) -> (transition: [Float], drive: [Float]) {
            var transition = system.transition
            for i in 0..<memory {
                for j in 0..<memory { transition[i * memory + j] += system.input[i] * sources[2][j] }
            }
            let drive = (0..<hidden).map { h in
                (0..<memory).reduce(Float(0)) { $0 + sources[5][h * memory + $1] * system.input[$1] }
            }
            return (transition, drive)
        }

        func compute(
            _ sources: [UnsafePointer<Float>], _ outputs: [UnsafeMutablePointer<Float>], _ threads: ThreadPool
        ) {
            let system = LegendreMemory.discretized(size: memory, window: window)
            let (transition, drive) = common(sources, system)
            let rows = drive + system.input
            for (row, factor) in rows.enumerated() {
                for d in 0..<width {
                    let own = row < hidden ? sources[3][row * width + d] : 0
                    outputs[0][row * width + d] = own + factor * sources[0][d]
                }
                for h in 0..<hidden {
                    let own = row < hidden ? sources[4][row * hidden + h] : 0
                    outputs[1][row * size + h] = own + factor * sources[1][h]
                }
            }
            for i in 0..<memory {
                for j in 0..<memory { outputs[1][(hidden + i) * size + hidden + j] = transition[i * memory + j] }
            }
            GEMM.multiply(
                sources[5], lda: memory, transition, ldb: memory, m: hidden, n: memory, k: memory, accumulate: false,
                into: outputs[1] + hidden, ldc: size, threads: threads)
        }

        func chain(
            _ sources: [UnsafePointer<Float>], _ gradients: [UnsafePointer<Float>],
            _ sums: [UnsafeMutablePointer<Float>], _ threads: ThreadPool
        ) {
            let system = LegendreMemory.discretized(size: memory, window: window)
            let (transition, drive) = common(sources, system)
            let (dInput, dRecurrent) = (gradients[0], gradients[1])
            // W_m A': gradients of both factors; A' also stands by itself.
            GEMM.multiply(
                dRecurrent + hidden, lda: size, transition, transposeB: true, ldb: memory, m: hidden, n: memory,
                k: memory, accumulate: true, into: sums[5], ldc: memory, threads: threads)
            var dTransition = [Float](repeating: 0, count: memory * memory)
            for i in 0..<memory {
                for j in 0..<memory { dTransition[i * memory + j] = dRecurrent[(hidden + i) * size + hidden + j] }
            }
            GEMM.multiply(
                sources[5], transposeA: true, lda: memory, dRecurrent + hidden, ldb: size, m: memory, n: memory,
                k: hidden, accumulate: true, into: &dTransition, ldc: memory, threads: threads)
            for i in 0..<memory {
                for j in 0..<memory { sums[2][j] += system.input[i] * dTransition[i * memory + j] }
            }
            // The rows `factor · e`: gradients of the encoders and, through b, of W_m.
            for (row, factor) in (drive + system.input).enumerated() {
                var dFactor: Float = 0
                for d in 0..<width {
                    let slope = dInput[row * width + d]
                    sums[0][d] += factor * slope
                    dFactor += slope * sources[0][d]
                    if row < hidden { sums[3][row * width + d] += slope }
                }
                for h in 0..<hidden {
                    let slope = dRecurrent[row * size + h]
                    sums[1][h] += factor * slope
                    dFactor += slope * sources[1][h]
                    if row < hidden { sums[4][row * hidden + h] += slope }
                }
                if row < hidden {
                    for j in 0..<memory { sums[5][row * memory + j] += dFactor * system.input[j] }
                }
            }
        }
    }
}
