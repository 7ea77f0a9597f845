import Glibc
import Kernels
import Testing

@Suite struct OptimizerKernelsTests {
    @Test(arguments: awkwardSizes, [true, false])
    func adamFollowsThePaper(count: Int, decoupled: Bool) {
        var settings = OptimizerKernels.Adam(learningRate: 0.01)
        settings.gradientScale = 0.5
        if decoupled { settings.decoupledDecay = 0.1 } else { settings.l2Penalty = 0.1 }
        var p = randomFloats(count, seed: 1), m = zeros(count), v = zeros(count)
        var pr = p.map(Double.init), mr = [Double](repeating: 0, count: count), vr = mr
        for step in 1...5 {
            let g = randomFloats(count, seed: UInt64(10 + step))
            OptimizerKernels.adam(
                settings, step: step, parameters: &p, gradient: g, first: &m, second: &v, count: count, threads: twoPool
            )
            for i in 0..<count {
                let gradient = 0.5 * Double(g[i]) + (decoupled ? 0 : 0.1 * pr[i])
                mr[i] = 0.9 * mr[i] + 0.1 * gradient
                vr[i] = 0.999 * vr[i] + 0.001 * gradient * gradient
                let mean = mr[i] / (1 - pow(0.9, Double(step))), variance = vr[i] / (1 - pow(0.999, Double(step)))
                pr[i] -= 0.01 * ((decoupled ? 0.1 * pr[i] : 0) + mean / (variance.squareRoot() + 1e-8))
            }
        }
        #expect(relativeError(p, pr) < 1e-6)
        #expect(relativeError(m, mr) < 1e-6)
        // 1 − β₂ = 0.001 is rounded to Float: 2e-5 relative, as in other float32 implementations.
        #expect(relativeError(v, vr) < 4e-5)
    }

    @Test(arguments: [(0.0, false), (0.9, false), (0.9, true)])
    func sgd(momentum: Double, nesterov: Bool) {
        let count = 257
        var settings = OptimizerKernels.SGD(learningRate: 0.1)
        (settings.momentum, settings.nesterov, settings.l2Penalty) = (momentum, nesterov, 0.01)
        var p = randomFloats(count, seed: 1), u = zeros(count)
        var pr = p.map(Double.init), ur = [Double](repeating: 0, count: count)
        for step in 1...4 {
            let g = randomFloats(count, seed: UInt64(20 + step))
            if momentum == 0 {
                OptimizerKernels.sgd(
                    settings, parameters: &p, gradient: g, velocity: nil, count: count, threads: twoPool)
            } else {
                OptimizerKernels.sgd(
                    settings, parameters: &p, gradient: g, velocity: &u, count: count, threads: twoPool)
            }
            for i in 0..<count {
                let gradient = Double(g[i]) + 0.01 * pr[i]
                ur[i] = momentum * ur[i] + gradient
                pr[i] -= 0.1 * (nesterov ? gradient + momentum * ur[i] : ur[i])
            }
        }
        #expect(relativeError(p, pr) < 1e-6)
    }
}
