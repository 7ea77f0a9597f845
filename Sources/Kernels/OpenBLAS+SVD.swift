import COpenBLAS

/// `A = U diag(σ) Vᵀ`, thin: with `r = min(m, n)`, `u` is `[m, r]`, `vt` `[r, n]`, and `σ` descends.
public struct SingularValueDecomposition {
    public let u: [Double]
    public let values: [Double]
    public let vt: [Double]

    /// Why a decomposition could not be had.
    public enum Failure: Error {
        /// OpenBLAS is not installed, or was built without LAPACK.
        case noLibrary
        /// The matrix holds NaN or infinity, or the iteration did not converge; LAPACK's code.
        case failed(Int)
    }

    /// By LAPACK's divide and conquer (dgesdd) on one thread.
    ///
    /// - Parameter matrix: `[rows, columns]`, row-major.
    public init(_ matrix: [Double], rows: Int, columns: Int) throws(Failure) {
        require(
            matrix.count == rows * columns && rows > 0 && columns > 0,
            "SingularValueDecomposition: got \(matrix.count) elements; expected \(rows) × \(columns)")
        guard OpenBLAS.isAvailable, cob_has_svd() == 1 else { throw .noLibrary }
        var input = matrix
        let rank = min(rows, columns)
        var (u, values, vt) = (
            [Double](repeating: 0, count: rows * rank), [Double](repeating: 0, count: rank),
            [Double](repeating: 0, count: rank * columns)
        )
        let code = cob_svd(Int32(rows), Int32(columns), &input, &values, &u, &vt)
        guard code == 0 else { throw .failed(Int(code)) }
        (self.u, self.values, self.vt) = (u, values, vt)
    }
}
