import CKernels

/// Softmax over the last axis of `[rows, width]`. A row of −∞ alone has no softmax: it becomes NaN.
public enum Softmax {
    /// `y = e^x / Σ e^x`; `y` may be `x`.
    public static func forward(
        _ x: UnsafePointer<Float>, into y: UnsafeMutablePointer<Float>, rows: Int, width: Int, threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            ck_softmax(y + row * width, x + row * width, count, width)
        }
    }

    /// `dx = y·(dy − Σ dy·y)`; `dx` may be `dy`.
    public static func backward(
        _ dy: UnsafePointer<Float>, y: UnsafePointer<Float>, into dx: UnsafeMutablePointer<Float>, rows: Int,
        width: Int, threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            ck_softmax_backward(dx + row * width, dy + row * width, y + row * width, count, width)
        }
    }

    /// `result[r] = log Σ e^x`, `[rows]`; −∞ for a row of −∞.
    public static func logSumExp(
        _ x: UnsafePointer<Float>, into result: UnsafeMutablePointer<Float>, rows: Int, width: Int,
        threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            ck_log_sum_exp(result + row, x + row * width, count, width)
        }
    }
}
