import CKernels

/// Sums and tests whose order depends on sizes alone.
public enum Reductions {
    /// `sums[c] (+)= Σ_r x[r, c]`: the bias gradient.
    /// - Parameters:
    ///   - x: `[rows, columns]`, rows `stride` floats apart (default `columns`).
    ///   - sums: `[columns]`.
    public static func columnSums(
        _ x: UnsafePointer<Float>, rows: Int, columns: Int, stride: Int? = nil, accumulate: Bool,
        into sums: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        let stride = stride ?? columns
        threads.forEachColumnPanel(of: columns, rows: rows) { column, count in
            ck_column_sums(sums + column, x + column, stride, rows, count, accumulate ? 1 : 0)
        }
    }

    /// `Σ x²`, in `Double`.
    public static func sumOfSquares(_ x: UnsafePointer<Float>, count: Int, threads: ThreadPool) -> Double {
        dot(x, x, count: count, threads: threads)
    }

    /// `Σ a·b`, in `Double`.
    public static func dot(
        _ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, count: Int, threads: ThreadPool
    ) -> Double {
        sliced(count, threads) { start, length in ck_dot(a + start, b + start, length) }
    }

    /// Whether no element is infinite or NaN.
    public static func allFinite(_ x: UnsafePointer<Float>, count: Int, threads: ThreadPool) -> Bool {
        sliced(count, threads) { start, length in ck_all_finite(x + start, length) == 0 ? 1 : 0 } == 0
    }

    /// Index of the largest element of each row of `x` `[rows, columns]`; the first of equals. A NaN counts as largest.
    public static func argmax(
        _ x: UnsafePointer<Float>, rows: Int, columns: Int, into indices: UnsafeMutablePointer<Int32>,
        threads: ThreadPool
    ) {
        require(columns > 0, "Reductions.argmax: rows of length \(columns); expected at least 1")
        threads.forEachRowPanel(of: rows, width: columns) { row, count in
            for r in row..<row + count {
                let p = x + r * columns
                var best = 0
                for c in 1..<max(columns, 1) where p[c] > p[best] || (p[c].isNaN && !p[best].isNaN) { best = c }
                indices[r] = Int32(best)
            }
        }
    }

    private static let sliceLimit = 64

    /// Adds `body` over at most 64 slices, in slice order; the slices depend on `count` alone.
    private static func sliced(
        _ count: Int, _ threads: ThreadPool, _ body: (_ start: Int, _ length: Int) -> Double
    ) -> Double {
        if count <= 0 { return 0 }
        let even = (count + sliceLimit - 1) / sliceLimit
        let size = max(ThreadPool.panelElements, (even + 15) / 16 * 16)
        let slices = (count + size - 1) / size
        return withUnsafeTemporaryAllocation(of: Double.self, capacity: sliceLimit) { partial in
            threads.run(slices) { index, _ in
                partial[index] = body(index * size, min(size, count - index * size))
            }
            var sum = 0.0
            for index in 0..<slices { sum += partial[index] }
            return sum
        }
    }
}
