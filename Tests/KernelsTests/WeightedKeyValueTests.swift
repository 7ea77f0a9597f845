import Glibc
import Kernels
import Testing

@Suite struct WeightedKeyValueTests {
    /// The definition, an O(T²) sum with weights `e^{(t−1−s) w + k_s}`.
    @Test(arguments: [(1, 1, 1), (2, 16, 17), (1, 63, 40), (2, 37, 257)])
    func matchesTheSum(_ b: Int, _ t: Int, _ c: Int) {
        let k = randomFloats(b * t * c, seed: 1, scale: 5), v = randomFloats(b * t * c, seed: 2)
        let w = randomFloats(c, seed: 3).map { -abs($0) }, u = randomFloats(c, seed: 4)
        var expected = [Double](repeating: 0, count: b * t * c)
        for row in 0..<b * t {
            for channel in 0..<c {
                let i = row * c + channel
                var (sum, weights) = (0.0, 0.0)
                for past in 0...row % t {
                    let j = i - past * c
                    let exponent = past == 0 ? Double(u[channel]) : Double(past - 1) * Double(w[channel])
                    let weight = exp(exponent + Double(k[j]))
                    sum += weight * Double(v[j])
                    weights += weight
                }
                expected[i] = sum / weights
            }
        }
        let y = run(b, t, c, k: k, v: v, w: w, u: u)
        #expect(relativeError(y, expected) < 1e-6)
    }

    /// Keys whose exponentials leave the range of a float.
    @Test func largeKeys() {
        let k: [Float] = [200, -300, 250, 0, 1e4, -1e4], v: [Float] = [1, 2, 3, 4, 5, 6]
        let y = run(1, 6, 1, k: k, v: v, w: [-1], u: [0])
        #expect(y == [1, 1, 3, 3, 5, 5])
    }

    private func run(_ b: Int, _ t: Int, _ c: Int, k: [Float], v: [Float], w: [Float], u: [Float]) -> [Float] {
        let kernel = WeightedKeyValue(batch: b, time: t, channels: c)
        var y = zeros(b * t * c), state = zeros(3 * b * c)
        for i in 2 * b * c..<3 * b * c { state[i] = WeightedKeyValue.emptyExponent }
        withOperands(k, v, w, u) {
            kernel.forward($0, state: &state, into: &y, checkpoints: nil, threads: twoPool)
        }
        return y
    }

    /// Operands that point into arrays for the length of `body`.
    private func withOperands(
        _ k: UnsafePointer<Float>, _ v: UnsafePointer<Float>, _ w: UnsafePointer<Float>, _ u: UnsafePointer<Float>,
        _ body: (WeightedKeyValue.Operands) -> Void
    ) { body(WeightedKeyValue.Operands(k: k, v: v, w: w, u: u)) }
}
