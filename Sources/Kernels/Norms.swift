import CKernels

/// RMSNorm and LayerNorm over the last axis of `[rows, width]`.
///
/// A weight gradient sums eight rows at a time, in row order, whatever the number of threads.
public enum Norms {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// `y = weight · x · rstd`, `rstd = (mean(x²) + epsilon)^(−½)`.
    /// - Parameters:
    ///   - rstd: `[rows]`, kept for the backward.
    ///   - residual: if given, `sum = x + residual` is stored and normalised instead of `x`: one pass over memory less.
    ///   - sum: `[rows, width]`, required with `residual`; may be `x` or `residual`.
    public static func rms(
        _ x: Source, residual: Source? = nil, sum: Destination? = nil, weight: Source, epsilon: Float,
        into y: Destination, rstd: Destination, rows: Int, width: Int, threads: ThreadPool
    ) {
        require(width > 0, "Norms.rms: width \(width); expected at least 1")
        require(
            (residual == nil) == (sum == nil),
            "Norms.rms: got one of residual and sum; expected both or neither")
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            let start = row * width
            ck_rms_norm(
                y + start, sum.map { $0 + start }, x + start, residual.map { $0 + start }, weight, rstd + row, count,
                width, epsilon)
        }
    }

    /// `dx (+)= rstd·(weight·dy − z·mean(weight·dy·z))`, `z = x·rstd`. `dx` may be `dy` unless accumulating.
    public static func rmsInputGradient(
        _ dy: Source, x: Source, weight: Source, rstd: Source, accumulate: Bool, into dx: Destination, rows: Int,
        width: Int, threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            let start = row * width
            ck_rms_norm_input_gradient(
                dx + start, dy + start, x + start, weight, rstd + row, count, width, accumulate ? 1 : 0)
        }
    }

    /// `dWeight += Σ_rows dy·x·rstd`, `[width]`.
    public static func rmsWeightGradient(
        _ dy: Source, x: Source, rstd: Source, addingTo dWeight: Destination, rows: Int, width: Int,
        threads: ThreadPool
    ) {
        threads.forEachColumnPanel(of: width, rows: rows) { column, count in
            ck_rms_norm_weight_gradient(dWeight + column, dy + column, x + column, rstd, width, rows, count)
        }
    }

    /// `y = weight·(x − mean)·rstd + bias`, with the biased variance.
    /// - Parameter mean, rstd: `[rows]`, kept for the backward.
    public static func layer(
        _ x: Source, weight: Source, bias: Source?, epsilon: Float, into y: Destination, mean: Destination,
        rstd: Destination, rows: Int, width: Int, threads: ThreadPool
    ) {
        require(width > 0, "Norms.layer: width \(width); expected at least 1")
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            let start = row * width
            ck_layer_norm(
                y + start, x + start, weight, bias, mean + row, rstd + row, count, width, epsilon)
        }
    }

    /// `dx (+)= rstd·(g − mean(g) − z·mean(g·z))`, `g = weight·dy`, `z = (x − mean)·rstd`. `dx` may be `dy` unless accumulating.
    public static func layerInputGradient(
        _ dy: Source, x: Source, weight: Source, mean: Source, rstd: Source, accumulate: Bool, into dx: Destination,
        rows: Int, width: Int, threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            let start = row * width
            ck_layer_norm_input_gradient(
                dx + start, dy + start, x + start, weight, mean + row, rstd + row, count, width, accumulate ? 1 : 0)
        }
    }

    /// `dWeight += Σ_rows dy·z`, `z = (x − mean)·rstd`, `[width]`. The bias gradient is `Reductions.columnSums` of `dy`.
    public static func layerWeightGradient(
        _ dy: Source, x: Source, mean: Source, rstd: Source, addingTo dWeight: Destination, rows: Int, width: Int,
        threads: ThreadPool
    ) {
        threads.forEachColumnPanel(of: width, rows: rows) { column, count in
            ck_layer_norm_weight_gradient(
                dWeight + column, dy + column, x + column, mean, rstd, width, rows, count)
        }
    }

    /// `y = x / √(Σ x² + epsilon)` along rows; `rstd` `[rows]` keeps the factors.
    public static func l2(
        _ x: Source, epsilon: Float, into y: Destination, rstd: Destination, rows: Int, width: Int, threads: ThreadPool
    ) {
        require(width > 0, "Norms.l2: width \(width); expected at least 1")
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            ck_l2_norm(y + row * width, rstd + row, x + row * width, count, width, epsilon)
        }
    }

    /// `dx = rstd·(dy − y·(dy·y))`; `dx` may be `dy`.
    public static func l2Backward(
        _ dy: Source, y: Source, rstd: Source, into dx: Destination, rows: Int, width: Int, threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            ck_l2_norm_backward(dx + row * width, dy + row * width, y + row * width, rstd + row, count, width)
        }
    }
}
