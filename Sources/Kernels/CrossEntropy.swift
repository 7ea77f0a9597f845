import CKernels

/// Cross-entropy of logits `[rows, classes]` against class indices `[rows]`; a negative index is ignored.
public enum CrossEntropy {
    /// `losses[r] = log Σ e^x − x[target]`, in nats; 0 in ignored rows.
    public static func losses(
        _ logits: UnsafePointer<Float>, targets: UnsafePointer<Int32>, into losses: UnsafeMutablePointer<Float>,
        rows: Int, classes: Int, threads: ThreadPool
    ) {
        // The C loop writes to the logits only when a gradient is asked for.
        run(UnsafeMutablePointer(mutating: logits), targets, losses, rows, classes, nil, threads)
    }

    /// As `losses`, and turns the logits into their gradient `(softmax − onehot)·scales[r]`; 0 in ignored rows.
    /// - Parameter scales: `[rows]`, the weight of each in the total loss, such as 1 / (number of counted rows in the batch).
    public static func lossesAndGradient(
        _ logits: UnsafeMutablePointer<Float>, targets: UnsafePointer<Int32>,
        into losses: UnsafeMutablePointer<Float>, rows: Int, classes: Int, scales: UnsafePointer<Float>,
        threads: ThreadPool
    ) {
        run(logits, targets, losses, rows, classes, scales, threads)
    }

    /// `losses[r]` as above, and `divergences[r] = Σ q log(q / p)` of `p = softmax(logits)` from a teacher's
    /// `q = softmax(teacher)`, in nats; the logits become the gradient
    /// `(p − (1 − share)·onehot − share·q)·scales[r]` of `(1 − share)·loss + share·divergence`. 0 in ignored rows.
    ///
    /// - Parameter teacher: logits `[rows, classes]`.
    public static func distilled(
        _ logits: UnsafeMutablePointer<Float>, teacher: UnsafePointer<Float>, targets: UnsafePointer<Int32>,
        losses: UnsafeMutablePointer<Float>, divergences: UnsafeMutablePointer<Float>, rows: Int, classes: Int,
        share: Float, scales: UnsafePointer<Float>, threads: ThreadPool
    ) {
        check(targets, rows, classes)
        threads.forEachRowPanel(of: rows, width: classes) { row, count in
            ck_distilled_cross_entropy(
                losses + row, divergences + row, logits + row * classes, teacher + row * classes, classes,
                targets + row, count, classes, share, scales + row)
        }
    }

    /// `hits[r]`: 1 where the target's logit is the row's largest (the first of equals), 0 elsewhere, in ignored rows,
    /// and in rows with a NaN.
    public static func hits(
        _ logits: UnsafePointer<Float>, targets: UnsafePointer<Int32>, into hits: UnsafeMutablePointer<Int32>,
        rows: Int, classes: Int, threads: ThreadPool
    ) {
        check(targets, rows, classes)
        threads.forEachRowPanel(of: rows, width: classes) { row, count in
            ck_top_one(hits + row, logits + row * classes, classes, targets + row, count, classes)
        }
    }

    private static func check(_ targets: UnsafePointer<Int32>, _ rows: Int, _ classes: Int) {
        for r in 0..<rows {
            require(targets[r] < classes, "CrossEntropy: target \(targets[r]) in row \(r); expected below \(classes)")
        }
    }

    private static func run(
        _ logits: UnsafeMutablePointer<Float>, _ targets: UnsafePointer<Int32>,
        _ losses: UnsafeMutablePointer<Float>, _ rows: Int, _ classes: Int, _ scales: UnsafePointer<Float>?,
        _ threads: ThreadPool
    ) {
        check(targets, rows, classes)
        threads.forEachRowPanel(of: rows, width: classes) { row, count in
            ck_cross_entropy(
                losses + row, logits + row * classes, classes, targets + row, count, classes, scales.map { $0 + row })
        }
    }
}
