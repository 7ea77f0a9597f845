import Synchronization

/// The HiPPO-LegS matrix, `A_nk = −√(2n+1)√(2k+1)` below the diagonal, `−(n+1)` on it, in normal plus low-rank form:
/// `A = V diag(Λ) V* − P Pᵀ` with `P_n = √(n+½)` and `Λ = −½ + iω` (arXiv 2008.07669; 2111.00396, appendix C).
public struct HiPPO: Sendable {
    /// `ω` of the half of the spectrum with negative imaginary parts, ascending, `[N/2]`.
    public let frequencies: [Double]
    /// `V* P`, its phases chosen so that it is positive, `[N/2]`. `V* B = √2 V* P`.
    public let projections: [Double]

    /// - Parameter size: `N`, even.
    public static func legS(size: Int) -> HiPPO {
        require(size >= 2 && size % 2 == 0, "HiPPO.legS: size \(size); expected an even number")
        return cache.withLock { cache in
            if let known = cache[size] { return known }
            let made = HiPPO(size: size)
            cache[size] = made
            return made
        }
    }

    private static let cache = Mutex<[Int: HiPPO]>([:])

    /// Jacobi rotations of the Hermitian `−i(A + P Pᵀ + ½)`; they turn `P` along, which is all that is wanted of `V`.
    private init(size: Int) {
        var h = [[Complex]](repeating: [Complex](repeating: Complex(0), count: size), count: size)
        var p = (0..<size).map { Complex((Double($0) + 0.5).squareRoot()) }
        for n in 0..<size {
            for k in 0..<n {
                // A + P Pᵀ is skew off the diagonal: −½√(2n+1)√(2k+1) below it.
                h[n][k] = Complex(0, p[n].re * p[k].re)
                h[k][n] = h[n][k].conjugate
            }
        }
        func offDiagonal() -> Double {
            (0..<size).reduce(0) { sum, n in (0..<n).reduce(sum) { $0 + h[n][$1].squaredMagnitude } }
        }
        let scale = offDiagonal()
        while offDiagonal() > 1e-30 * scale {
            for n in 0..<size {
                for k in 0..<n { Self.rotate(&h, &p, k, n) }
            }
        }
        let order = (0..<size).sorted { h[$0][$0].re < h[$1][$1].re }.prefix(size / 2)
        frequencies = order.map { h[$0][$0].re }
        projections = order.map { p[$0].squaredMagnitude.squareRoot() }
    }

    /// The rotation of the plane (k, n) that makes `h[k][n]` zero.
    private static func rotate(_ h: inout [[Complex]], _ p: inout [Complex], _ k: Int, _ n: Int) {
        let size = h[k][n].squaredMagnitude.squareRoot()
        if size == 0 { return }
        let phase = (1 / size) * h[k][n]
        let ratio = (h[n][n].re - h[k][k].re) / (2 * size)
        let tangent = (ratio < 0 ? -1 : 1) / (abs(ratio) + (1 + ratio * ratio).squareRoot())
        let cosine = 1 / (1 + tangent * tangent).squareRoot()
        let sine = tangent * cosine
        for row in h.indices where row != k && row != n {
            let (left, right) = (h[row][k], phase.conjugate * h[row][n])
            h[row][k] = cosine * left - sine * right
            h[row][n] = sine * left + cosine * right
            h[k][row] = h[row][k].conjugate
            h[n][row] = h[row][n].conjugate
        }
        h[k][k].re -= tangent * size
        h[n][n].re += tangent * size
        h[k][n] = Complex(0)
        h[n][k] = Complex(0)
        let (left, right) = (p[k], phase * p[n])
        p[k] = cosine * left - sine * right
        p[n] = sine * left + cosine * right
    }
}
