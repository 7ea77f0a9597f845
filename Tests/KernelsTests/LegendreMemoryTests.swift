import Glibc
import Kernels
import Testing

@Suite struct LegendreMemoryTests {
    private func run(size: Int, window: Double, _ signal: [Float]) -> [Float] {
        let memory = LegendreMemory.discretized(size: size, window: window)
        var state = zeros(size)
        for u in signal {
            state = (0..<size).map { i in
                (0..<size).reduce(memory.input[i] * u) { $0 + memory.transition[i * size + $1] * state[$1] }
            }
        }
        return state
    }

    /// A constant is its own first Legendre coefficient.
    @Test func constantSignal() {
        let state = run(size: 12, window: 40, [Float](repeating: 1, count: 200))
        for (i, value) in state.enumerated() { #expect(abs(value - (i == 0 ? 1 : 0)) < 1e-5) }
    }

    /// The polynomial, read inside the window, is the signal of then. (At the window's ends it errs by a percent.)
    @Test func slowSine() {
        let (window, steps) = (40.0, 300)
        let state = run(size: 12, window: window, (0..<steps).map { Float(sin(0.05 * (Double($0) + 0.5))) })
        for delay in [0.25, 0.5, 0.75] {
            let x = 2 * delay - 1
            var (previous, current) = (1.0, x)
            var sum = Double(state[0]) + Double(state[1]) * x
            for n in 1..<11 {
                (previous, current) = (
                    current, (Double(2 * n + 1) * x * current - Double(n) * previous) / Double(n + 1)
                )
                sum += Double(state[n + 1]) * current
            }
            #expect(abs(sum - sin(0.05 * (Double(steps) - delay * window))) < 1e-3)
        }
    }
}
