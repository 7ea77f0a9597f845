import CKernels

/// `y[r, h, :] = factor[r, h] · x[r, h, :]`, the heads of x in the first columns of rows a stride apart.
public enum ScaledHeads {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// - Parameters:
    ///   - factors: `[R, H]`. - y: `[R, H·width]`, written.
    public static func forward(
        _ x: Source, rowStride: Int, factors: Source, into y: Destination, rows: Int, heads: Int, width: Int,
        threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: heads * width) { row, count in
            ck_scaled_heads(
                y + row * heads * width, x + row * rowStride, rowStride, factors + row * heads, count, heads, width)
        }
    }

    /// - Parameters:
    ///   - dy: `[R, H·width]`. - dx: rows as those of x, added to. - dFactors: `[R, H]`, written.
    public static func backward(
        _ dy: Source, x: Source, rowStride: Int, factors: Source, addingTo dx: Destination, dFactors: Destination,
        rows: Int, heads: Int, width: Int, threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: heads * width) { row, count in
            ck_scaled_heads_backward(
                dx + row * rowStride, dFactors + row * heads, dy + row * heads * width, x + row * rowStride, rowStride,
                factors + row * heads, count, heads, width)
        }
    }
}
