import CKernels
import Glibc

/// Which channels of a head of width `d` form the pairs that are rotated.
public enum RotaryPairs: String, Sendable, CaseIterable {
    /// `(i, i + d/2)`, the layout of Llama.
    case half
    /// `(2i, 2i + 1)`, the layout of the rotary paper (arXiv 2104.09864).
    case interleaved
}

/// Cosines and sines of `position · theta^(−2i/headWidth)`, from `Double` angles, rounded once.
///
/// Grows on demand; not thread-safe: one table per rank.
public final class RotaryTable {
    public let headWidth: Int
    public let theta: Double
    public let pairs: RotaryPairs
    public private(set) var positionCount = 0
    private var cosines: [Float] = []  // [position, headWidth/2]
    private var sines: [Float] = []

    public init(headWidth: Int, theta: Double, pairs: RotaryPairs = .half) {
        require(
            headWidth > 0 && headWidth % 2 == 0, "RotaryTable: head width \(headWidth); expected a positive even number"
        )
        self.headWidth = headWidth
        self.theta = theta
        self.pairs = pairs
    }

    /// Makes positions `0..<count` available; at least doubles, so that generating token by token stays linear.
    public func reserve(_ count: Int) {
        if count <= positionCount { return }
        let target = max(count, 2 * positionCount), half = headWidth / 2
        let frequencies = (0..<half).map { pow(theta, -2 * Double($0) / Double(headWidth)) }
        for position in positionCount..<target {
            for frequency in frequencies {
                cosines.append(Float(cos(Double(position) * frequency)))
                sines.append(Float(sin(Double(position) * frequency)))
            }
        }
        positionCount = target
    }

    func withTables(_ body: (_ cosines: UnsafePointer<Float>, _ sines: UnsafePointer<Float>) -> Void) {
        cosines.withUnsafeBufferPointer { c in
            sines.withUnsafeBufferPointer { s in
                if let c = c.baseAddress, let s = s.baseAddress { body(c, s) }
            }
        }
    }
}

/// Rotary position embedding.
public enum RotaryEmbedding {
    /// Rotates every pair by `a = position · theta^(−2i/d)`: `(u, w) → (u·cos a − w·sin a, w·cos a + u·sin a)`.
    /// - Parameters:
    ///   - x: `[batch, tokens, heads, d]`, tokens `stride` floats apart (default `heads·d`); samples `tokens·stride`.
    ///   - y: laid out as `x`; may be `x`.
    ///   - start: position of the first token.
    ///   - positions: `[batch·tokens]`, the position of every row, where they are not consecutive; nil: from `start` on.
    ///   - inverse: rotate by `−a`: the gradient of the rotation.
    public static func apply(
        _ x: UnsafePointer<Float>, into y: UnsafeMutablePointer<Float>, batch: Int, tokens: Int, heads: Int,
        stride: Int? = nil, start: Int, positions: [Int32]? = nil, table: RotaryTable, inverse: Bool = false,
        threads: ThreadPool
    ) {
        let width = table.headWidth, stride = stride ?? heads * width
        require(stride >= heads * width, "RotaryEmbedding: stride \(stride); expected at least \(heads * width)")
        require(start >= 0, "RotaryEmbedding: first position \(start); expected at least 0")
        if let positions {
            require(
                positions.count == batch * tokens && positions.allSatisfy { $0 >= 0 },
                "RotaryEmbedding: \(positions.count) positions, lowest \(positions.min() ?? 0); expected \(batch * tokens), none negative"
            )
        }
        table.reserve(positions.map { Int($0.max() ?? 0) + 1 } ?? start + tokens)
        let rotate = table.pairs == .half ? ck_rotate_half : ck_rotate_interleaved
        table.withTables { cosines, sines in
            threads.forEachRowPanel(of: batch * tokens, width: heads * width) { row, count in
                for r in row..<row + count {
                    let angle = (positions.map { Int($0[r]) } ?? start + r % tokens) * (width / 2)
                    rotate(
                        y + r * stride, x + r * stride, cosines + angle, sines + angle, heads, width / 2,
                        inverse ? -1 : 1)
                }
            }
        }
    }
}
