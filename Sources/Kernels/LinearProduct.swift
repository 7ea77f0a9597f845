import CKernels

/// `y = a ⊙ b` with `[a, b] = x Wᵀ + c`: the product of two linear maps of the same rows.
///
/// Rows go by in panels, so that both factors of a panel are multiplied while they are in cache. `d` inputs, `n` outputs.
public enum LinearProduct {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    private static let panelRows = 256

    /// - Parameters:
    ///   - x: `[R, d]`. - weights: `Wᵀ [d, 2n]`. - bias: `[2n]`.
    ///   - factors: `a` and `b` side by side, `[R, 2n]`, written. - y: `[R, n]`, written.
    public static func forward(
        _ x: Source, rows: Int, weights: PackedMatrix, bias: Source, factors: Destination, into y: Destination,
        threads: ThreadPool
    ) {
        let (inputs, outputs) = (weights.k, weights.n / 2)
        forEachPanel(of: rows, threads) { row, count in
            let factors = factors + row * 2 * outputs
            GEMM.multiplyOnWorker(
                x + row * inputs, lda: inputs, packed: weights, m: count, accumulate: false, bias: bias, into: factors,
                ldc: 2 * outputs)
            ck_paired_product(y + row * outputs, factors, count, outputs)
        }
    }

    /// - Parameters:
    ///   - dy: `[R, n]`. - factors: of the forward pass; become their gradients.
    ///   - weights: `W [2n, d]`. - dx: `[R, d]`.
    public static func backward(
        _ dy: Source, rows: Int, weights: PackedMatrix, factors: Destination, accumulate: Bool, into dx: Destination,
        threads: ThreadPool
    ) {
        let (inputs, outputs) = (weights.n, weights.k / 2)
        forEachPanel(of: rows, threads) { row, count in
            let factors = factors + row * 2 * outputs
            ck_paired_product_backward(factors, dy + row * outputs, count, outputs)
            GEMM.multiplyOnWorker(
                factors, lda: 2 * outputs, packed: weights, m: count, accumulate: accumulate, into: dx + row * inputs,
                ldc: inputs)
        }
    }

    private static func forEachPanel(of rows: Int, _ threads: ThreadPool, _ body: (_ row: Int, _ count: Int) -> Void) {
        threads.run((rows + panelRows - 1) / panelRows) { panel, _ in
            body(panel * panelRows, min(panelRows, rows - panel * panelRows))
        }
    }
}
