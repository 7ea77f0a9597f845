import CKernels
import Glibc

/// Cosines and sines of `position · theta^(−2i/headWidth)`, from `Double` angles, rounded once.
///
/// Grows on demand; not thread-safe: one table per rank.
public final class RotaryTable {
    public let headWidth: Int
    public let theta: Double
    public private(set) var positionCount = 0
    private var cosines: [Float] = []  // [position, headWidth/2]
    private var sines: [Float] = []

    public init(headWidth: Int, theta: Double) {
        require(
            headWidth > 0 && headWidth % 2 == 0, "RotaryTable: head width \(headWidth); expected a positive even number"
        )
        self.headWidth = headWidth
        self.theta = theta
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

/// Rotary position embedding in the half-split layout of Llama: channel pairs `(i, i + d/2)`.
public enum RotaryEmbedding {
    /// Rotates every pair by `a = position · theta^(−2i/d)`: `(u, w) → (u·cos a − w·sin a, w·cos a + u·sin a)`.
    /// - Parameters:
    ///   - x: `[batch, tokens, heads, d]`, tokens `stride` floats apart (default `heads·d`); samples `tokens·stride`.
    ///   - y: laid out as `x`; may be `x`.
    ///   - start: position of the first token.
    ///   - inverse: rotate by `−a`: the gradient of the rotation.
    public static func apply(
        _ x: UnsafePointer<Float>, into y: UnsafeMutablePointer<Float>, batch: Int, tokens: Int, heads: Int,
        stride: Int? = nil, start: Int, table: RotaryTable, inverse: Bool = false, threads: ThreadPool
    ) {
        let width = table.headWidth, stride = stride ?? heads * width
        require(stride >= heads * width, "RotaryEmbedding: stride \(stride); expected at least \(heads * width)")
        require(start >= 0, "RotaryEmbedding: first position \(start); expected at least 0")
        table.reserve(start + tokens)
        table.withTables { cosines, sines in
            threads.forEachRowPanel(of: batch * tokens, width: heads * width) { row, count in
                for r in row..<row + count {
                    let angle = (start + r % tokens) * (width / 2)
                    ck_rotate_half(
                        y + r * stride, x + r * stride, cosines + angle, sines + angle, heads, width / 2,
                        inverse ? -1 : 1)
                }
            }
        }
    }
}
