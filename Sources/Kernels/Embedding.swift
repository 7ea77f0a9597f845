import CKernels

/// Rows of a table `[vocabulary, width]` by index.
public enum Embedding {
    /// `y[r] = table[indices[r]]`, `[rows, width]`.
    public static func gather(
        _ table: UnsafePointer<Float>, vocabulary: Int, indices: UnsafePointer<Int32>,
        into y: UnsafeMutablePointer<Float>, rows: Int, width: Int, threads: ThreadPool
    ) {
        check(indices, rows, vocabulary)
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            for r in row..<row + count {
                (y + r * width).update(from: table + Int(indices[r]) * width, count: width)
            }
        }
    }

    /// `dTable[indices[r]] += dy[r]` in ascending order of `r`. Threads share columns, so the order never changes.
    public static func scatterAdd(
        _ dy: UnsafePointer<Float>, indices: UnsafePointer<Int32>, to dTable: UnsafeMutablePointer<Float>,
        vocabulary: Int, rows: Int, width: Int, threads: ThreadPool
    ) {
        check(indices, rows, vocabulary)
        threads.forEachColumnPanel(of: width, rows: rows) { column, count in
            for r in 0..<rows {
                let target = dTable + Int(indices[r]) * width + column
                ck_add(target, target, dy + r * width + column, count)
            }
        }
    }

    private static func check(_ indices: UnsafePointer<Int32>, _ rows: Int, _ vocabulary: Int) {
        for r in 0..<rows {
            require(
                indices[r] >= 0 && indices[r] < vocabulary,
                "Embedding: index \(indices[r]) in row \(r); expected 0..<\(vocabulary)")
        }
    }
}
