extension GEMM {
    /// Rows of C in one call of OpenBLAS. Fixed, because its results depend on the height of a call.
    private static let panelRows = 256

    /// The same product by OpenBLAS.
    package static func multiplyWithOpenBLAS(
        _ a: UnsafePointer<Float>, transposeA: Bool, lda: Int, _ b: UnsafePointer<Float>, transposeB: Bool, ldb: Int,
        m: Int, n: Int, k: Int, accumulate: Bool, bias: UnsafePointer<Float>?, into c: UnsafeMutablePointer<Float>,
        ldc: Int,
        threads: ThreadPool
    ) {
        checkSizes(
            transposeA: transposeA, lda: lda, transposeB: transposeB, ldb: ldb, m: m, n: n, k: k, ldc: ldc,
            biasWithAccumulate: accumulate && bias != nil)
        if m == 0 || n == 0 { return }
        threads.run((m + panelRows - 1) / panelRows) { panel, _ in
            let i = panel * panelRows
            let rows = min(panelRows, m - i)
            let start = c + i * ldc
            if let bias {
                for row in 0..<rows { (start + row * ldc).update(from: bias, count: n) }
            } else if k == 0 && !accumulate {
                for row in 0..<rows { (start + row * ldc).update(repeating: 0, count: n) }
            }
            if k == 0 { return }
            OpenBLAS.multiply(
                a + (transposeA ? i : i * lda), transposeA: transposeA, lda: lda, b, transposeB: transposeB, ldb: ldb,
                m: rows, n: n, k: k, accumulate: accumulate || bias != nil, into: start, ldc: ldc)
        }
    }
}
