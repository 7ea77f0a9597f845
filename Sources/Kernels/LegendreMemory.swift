import Glibc
import Synchronization

/// The Legendre memory: the linear system whose state of `m` numbers holds the last θ inputs as Legendre coefficients,
/// `A_ij = (2i+1)/θ · (−1 if i < j else (−1)^{i−j+1})`, `B_i = (2i+1)/θ · (−1)^i` (Voelker et al. 2019), under a zero-order
/// hold of one step: `Ā = e^A`, `B̄ = A⁻¹(e^A − 1) B`.
public struct LegendreMemory: Sendable {
    /// `Ā [m, m]`, row-major.
    public let transition: [Float]
    /// `B̄ [m]`
    public let input: [Float]

    /// - Parameters:
    ///   - size: `m`. - window: `θ`, in steps.
    public static func discretized(size: Int, window: Double) -> LegendreMemory {
        require(size >= 1 && window > 0, "LegendreMemory: size \(size), window \(window); expected at least 1 and > 0")
        return cache.withLock { cache in
            let key = Key(size: size, window: window)
            if let known = cache[key] { return known }
            let made = LegendreMemory(size: size, window: window)
            cache[key] = made
            return made
        }
    }

    private struct Key: Hashable {
        var size: Int
        var window: Double
    }

    private static let cache = Mutex<[Key: LegendreMemory]>([:])

    /// The exponential of `[[A, B], [0, 0]]` by its Taylor series after halving it s times, then s squarings.
    private init(size: Int, window: Double) {
        let n = size + 1
        var matrix = [Double](repeating: 0, count: n * n)
        for i in 0..<size {
            let factor = Double(2 * i + 1) / window
            for j in 0..<size { matrix[i * n + j] = i < j || (i - j) % 2 == 0 ? -factor : factor }
            matrix[i * n + size] = i % 2 == 0 ? factor : -factor
        }
        let norm = (0..<n).map { row in (0..<n).reduce(0) { $0 + abs(matrix[row * n + $1]) } }.max() ?? 0
        let halvings = max(0, Int(log2(max(norm, 1)).rounded(.up)) + 1)
        let scale = pow(0.5, Double(halvings))
        for index in matrix.indices { matrix[index] *= scale }

        var term = [Double](repeating: 0, count: n * n)
        for i in 0..<n { term[i * n + i] = 1 }
        var sum = term
        for order in 1...18 {
            term = Self.product(term, matrix, n).map { $0 / Double(order) }
            for index in sum.indices { sum[index] += term[index] }
        }
        for _ in 0..<halvings { sum = Self.product(sum, sum, n) }
        transition = (0..<size).flatMap { i in sum[i * n..<i * n + size].map { Float($0) } }
        input = (0..<size).map { Float(sum[$0 * n + size]) }
    }

    private static func product(_ a: [Double], _ b: [Double], _ n: Int) -> [Double] {
        var c = [Double](repeating: 0, count: n * n)
        a.withUnsafeBufferPointer { a in
            b.withUnsafeBufferPointer { b in
                c.withUnsafeMutableBufferPointer { c in
                    for i in 0..<n {
                        for k in 0..<n where a[i * n + k] != 0 {
                            let factor = a[i * n + k]
                            for j in 0..<n { c[i * n + j] += factor * b[k * n + j] }
                        }
                    }
                }
            }
        }
        return c
    }
}
