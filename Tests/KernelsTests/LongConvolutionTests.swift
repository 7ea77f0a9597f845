import Kernels
import Testing

@Suite struct LongConvolutionTests {
    /// B, T, C, L: fewer and more taps than tokens, off the tiles of 8 by 4 and the 16 lanes.
    @Test(arguments: [(1, 1, 1, 2), (2, 7, 17, 30), (1, 63, 16, 13), (2, 100, 33, 100)], [false, true])
    func matchesTheDefinition(_ size: (b: Int, t: Int, c: Int, l: Int), hasPast: Bool) {
        let (b, t, c, l) = size
        let x = randomFloats(b * t * c, seed: 1), kernel = randomFloats(l * c, seed: 2)
        let past = hasPast ? randomFloats(b * (l - 1) * c, seed: 3) : zeros(b * (l - 1) * c)
        let g = randomFloats(b * t * c, seed: 4)
        var y = [Double](repeating: 0, count: x.count), dx = y
        var dPast = [Double](repeating: 0, count: past.count), dKernel = [Double](repeating: 0, count: kernel.count)
        for row in 0..<b {
            for i in 0..<t {
                for channel in 0..<c {
                    let own = (row * t + i) * c + channel
                    for j in 0..<l {
                        let at = i - j
                        if at < 1 - l { continue }
                        let isPast = at < 0
                        let place =
                            isPast ? (row * (l - 1) + l - 1 + at) * c + channel : (row * t + at) * c + channel
                        let (value, tap) = (
                            Double(isPast ? past[place] : x[place]), Double(kernel[j * c + channel])
                        )
                        y[own] += tap * value
                        dKernel[j * c + channel] += Double(g[own]) * value
                        if isPast { dPast[place] += Double(g[own]) * tap } else { dx[place] += Double(g[own]) * tap }
                    }
                }
            }
        }
        let convolution = LongConvolution(batch: b, time: t, channels: c, taps: l)
        var gotY = zeros(x.count), gotX = zeros(x.count), gotPast = zeros(past.count), gotKernel = zeros(kernel.count)
        past.withUnsafeBufferPointer { buffer in
            let past = hasPast ? buffer.baseAddress : nil
            convolution.forward(x, past: past, kernel: kernel, into: &gotY, threads: twoPool)
            convolution.backward(
                x, past: past, kernel: kernel, dy: g, into: &gotX, dPast: &gotPast, dKernel: &gotKernel,
                threads: twoPool)
        }
        #expect(relativeError(gotY, y) < 1e-6)
        #expect(relativeError(gotX, dx) < 1e-6)
        #expect(relativeError(gotKernel, dKernel) < 1e-6)
        if hasPast { #expect(relativeError(gotPast, dPast) < 1e-6) }
    }
}
