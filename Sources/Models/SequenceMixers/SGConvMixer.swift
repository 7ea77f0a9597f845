import Autograd
import Glibc
import Kernels
import Tensors

/// SGConv: one long convolution per feature, its kernel pieced together from few parameters at doubling scales.
///
///     y = k ⊛ u + D u;   out = W gelu(y) + b
///
/// Piece i of `S = 1 + ⌈log2(l_max/d)⌉` is `kernel_list.i` (d numbers), interpolated linearly (half-pixel centres, ends
/// clamped) to `d·2^{max(0, i−1)}` taps, times `c^{S−1−i}`; c runs from `decay_min` to `decay_max` over the features. The
/// pieces in a row, cut to `l_max` taps, are divided by the expected L2 norm of the uncut row at initialisation (the
/// published code divides by the norm of its own draw).
/// Keys: `l_max` L (1024), `kernel_dim` d (64), `decay_min`, `decay_max` (2).
/// Parameters under `mixer.`: `kernel_list.{i} [1, D, d]` and `D [1, D]`, N(1) and without weight decay,
/// `output_linear.weight [D, D]`, `.bias [D]`.
/// Carry: `x [B, (L−1)·D]`, the last inputs. Cost per token: 2·min(L, t)·D + 2·D² FLOPs; linear in T beyond L.
/// Source: arXiv 2210.09298; ctlllll/SGConv.
public final class SGConvMixer: SequenceMixer {
    public static let name = "sgconv"

    public let outputWidth: Int
    public let chunkingObstacle: String? = nil
    public let streamStateNames = ["x"]
    private let taps: Int
    private let kernel: DerivedTensors
    private let skip: ParameterUse
    private let output: Linear

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        let taps = try reader.int("l_max", default: 1024, in: 2...1_048_576)
        let size = try reader.int("kernel_dim", default: 64, in: 1...65_536)
        let smallest = try reader.double("decay_min", default: 2, above: 0)
        let largest = try reader.double("decay_max", default: 2, above: 0)
        outputWidth = width
        self.taps = taps

        var pieceCount = 1
        while size << (pieceCount - 1) < taps { pieceCount += 1 }
        let pieces = (0..<pieceCount).map {
            builder.tensor(
                "mixer.kernel_list.\($0)", Shape(1, width, size), .normal(standardDeviation: 1), decays: false)
        }
        let decays = (0..<width).map { smallest + (largest - smallest) * Double($0) / Double(max(width - 1, 1)) }
        let rows = Self.rows(pieceCount: pieceCount, size: size)
        let scales = decays.map { Self.scales(rows, decay: $0, pieceCount: pieceCount) }
        kernel = Self.kernel(from: pieces, rows: Array(rows.prefix(taps)), scales: scales, width: width, size: size)
        skip = builder.tensor("mixer.D", Shape(1, width), .normal(standardDeviation: 1), decays: false)
        let bound = Initializer.uniform(bound: 1 / Float(width).squareRoot())
        output = Linear("mixer.output_linear", width, width, bias: true, builder, initializer: bound)
    }

    /// One tap: where in which piece it is read, `(1 − weight)·left + weight·right`.
    private struct Row {
        var piece, left, right: Int
        var weight: Float
    }

    private static func rows(pieceCount: Int, size: Int) -> [Row] {
        (0..<pieceCount).flatMap { piece in
            let stretch = 1 << max(0, piece - 1)
            return (0..<size * stretch).map { j in
                let source = max(0, (Double(j) + 0.5) / Double(stretch) - 0.5)
                let left = Int(source)
                return Row(
                    piece: piece, left: left, right: min(left + 1, size - 1), weight: Float(source - Double(left)))
            }
        }
    }

    /// `c^{S−1−i}` over the expected norm, for every piece.
    private static func scales(_ rows: [Row], decay: Double, pieceCount: Int) -> [Float] {
        let powers = (0..<pieceCount).map { pow(decay, Double(pieceCount - 1 - $0)) }
        let variance = rows.reduce(0.0) { sum, row in
            let w = Double(row.weight)
            let own = row.left == row.right ? 1 : (1 - w) * (1 - w) + w * w
            return sum + powers[row.piece] * powers[row.piece] * own
        }
        return powers.map { Float($0 / variance.squareRoot()) }
    }

    /// The kernel `[L, D]`.
    private static func kernel(
        from pieces: [ParameterUse], rows: [Row], scales: [[Float]], width: Int, size: Int
    ) -> DerivedTensors {
        DerivedTensors(from: pieces, to: [Shape(rows.count, width)]) { sources, outputs, _ in
            for (tap, row) in rows.enumerated() {
                for d in 0..<width {
                    let piece = sources[row.piece] + d * size
                    let value = piece[row.left] + row.weight * (piece[row.right] - piece[row.left])
                    outputs[0][tap * width + d] = scales[d][row.piece] * value
                }
            }
        } chain: { _, gradients, sums, _ in
            for (tap, row) in rows.enumerated() {
                for d in 0..<width {
                    let (piece, slope) = (
                        sums[row.piece] + d * size, scales[d][row.piece] * gradients[0][tap * width + d]
                    )
                    piece[row.left] += (1 - row.weight) * slope
                    piece[row.right] += row.weight * slope
                }
            }
        }
    }

    public func forward(_ u: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        let (y, past) = tape.longConvolution(
            u, past: carry["x"], kernel: tape.derived(kernel)[0], batch: pass.batch, time: pass.time)
        let activated = tape.gelu(tape.add(y, u, scaledBy: skip), tanhForm: false)
        return (output(activated, tape), [CarryTensor(name: "x", variable: past)])
    }

    public func flopsPerToken(time: Int) -> Double {
        // A token meets itself and what came before it, on average half the sequence until the taps end.
        let reach = time <= taps ? Double(time + 1) / 2 : Double(taps) - Double(taps * (taps - 1)) / Double(2 * time)
        return Double(2 * outputWidth) * (reach + 1 + Double(outputWidth))
    }

    /// The input, the convolution, its sum with the skip, gelu.
    public var savedPerToken: Int { 4 * outputWidth }
}
