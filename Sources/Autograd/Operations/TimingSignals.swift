import Glibc
import Kernels
import Tensors

/// Sines and cosines that tell positions or steps apart, one row of `width` channels for each index; from `Double` angles.
///
/// Grows on demand; not thread-safe: one per rank.
public final class TimingSignals {
    public enum Layout: String, Sendable, CaseIterable {
        /// The code of arXiv 1807.03819: `width/2` sines, then as many cosines, of `p·10000^(−i/(width/2 − 1))`.
        case t2t
        /// The formula of arXiv 1706.03762: channels `2i`, `2i + 1` are sine and cosine of `p·10000^(−2i/width)`.
        case paper
    }

    public let width: Int
    public let layout: Layout
    private var values: [Float] = []  // [index, width]

    public init(width: Int, layout: Layout) {
        require(width > 0 && width % 2 == 0, "TimingSignals: width \(width); expected a positive even number")
        self.width = width
        self.layout = layout
    }

    /// Calls `body` with rows `0..<count`, or more.
    func withRows(_ count: Int, _ body: (UnsafePointer<Float>) -> Void) {
        let present = values.count / width, half = width / 2
        if present < count {
            let target = max(count, 2 * present)
            values += [Float](repeating: 0, count: (target - present) * width)
            let rates = (0..<half).map { i in
                pow(10_000, layout == .t2t ? -Double(i) / Double(max(half - 1, 1)) : -Double(i) / Double(half))
            }
            for index in present..<target {
                for (i, rate) in rates.enumerated() {
                    let angle = Double(index) * rate
                    values[index * width + (layout == .t2t ? i : 2 * i)] = Float(sin(angle))
                    values[index * width + (layout == .t2t ? half + i : 2 * i + 1)] = Float(cos(angle))
                }
            }
        }
        values.withUnsafeBufferPointer { body($0.baseAddress!) }
    }
}

extension Tape {
    /// `x [B·T, D]` plus the signal of every row's position.
    /// - Parameters:
    ///   - positionOffset: position of the first row of each sequence.
    ///   - positions: `[B·T]`, where they are not consecutive.
    public func addTimingSignals(
        _ x: Variable, time: Int, positionOffset: Int, positions: [Int32]? = nil, _ signals: TimingSignals
    ) -> Variable {
        addTimingSignals(
            x, signals,
            indices: (0..<x.value.rows).map { row in
                positions.map { Int($0[row]) } ?? positionOffset + row % time
            })
    }

    /// `x [R, D]` plus the signal of one step.
    public func addTimingSignal(_ x: Variable, step: Int, _ signals: TimingSignals) -> Variable {
        addTimingSignals(x, signals, indices: [Int](repeating: step, count: x.value.rows))
    }

    private func addTimingSignals(_ x: Variable, _ signals: TimingSignals, indices: [Int]) -> Variable {
        let width = signals.width
        require(x.value.width == width, "addTimingSignals: x \(x.shape), signals of width \(width)")
        let y = context.tensor(x.shape)
        signals.withRows((indices.max() ?? 0) + 1) { rows in
            for (row, index) in indices.enumerated() {
                Elementwise.add(
                    x.value.pointer + row * width, rows + index * width, into: y.pointer + row * width, count: width,
                    threads: threads)
            }
        }
        let result = output(y, from: x)
        record(result) { dy in x.accumulate(dy, self.context) }
        return result
    }
}
