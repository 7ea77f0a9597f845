import Glibc
import Kernels
import Testing

@Suite struct ShortConvolutionKernelTests {
    /// B, T, C, W: chunks shorter than the history, one tap, channels off the vector width.
    static let shapes = [(1, 1, 1, 4), (2, 2, 17, 4), (3, 63, 40, 4), (2, 100, 257, 3), (1, 70, 16, 1), (2, 5, 33, 8)]

    /// Values and gradients of `Σ g·silu(y)` (or of `Σ g·y`) from the definition, in Double.
    static func reference(
        _ x: [Float], past: [Float], _ w: [Float], _ bias: [Float], _ g: [Float], silu: Bool, b: Int, t: Int, c: Int,
        taps: Int
    ) -> (y: [Double], dx: [Double], dPast: [Double], dw: [Double]) {
        var y = [Double](repeating: 0, count: b * t * c), dx = y
        var dPast = [Double](repeating: 0, count: b * (taps - 1) * c), dw = [Double](repeating: 0, count: taps * c)
        for s in 0..<b {
            for i in 0..<t {
                for channel in 0..<c {
                    func at(_ j: Int) -> (isPast: Bool, index: Int) {
                        j < 0
                            ? (true, (s * (taps - 1) + j + taps - 1) * c + channel) : (false, (s * t + j) * c + channel)
                    }
                    var sum = Double(bias[channel])
                    for k in 0..<taps {
                        let place = at(i - taps + 1 + k)
                        sum += Double(w[k * c + channel]) * Double(place.isPast ? past[place.index] : x[place.index])
                    }
                    let own = (s * t + i) * c + channel
                    let sigma = 1 / (1 + exp(-sum))
                    y[own] = silu ? sum * sigma : sum
                    let slope = Double(g[own]) * (silu ? sigma * (1 + sum * (1 - sigma)) : 1)
                    for k in 0..<taps {
                        let place = at(i - taps + 1 + k)
                        let weight = Double(w[k * c + channel])
                        if place.isPast {
                            dPast[place.index] += slope * weight
                        } else {
                            dx[place.index] += slope * weight
                        }
                        dw[k * c + channel] += slope * Double(place.isPast ? past[place.index] : x[place.index])
                    }
                }
            }
        }
        return (y, dx, dPast, dw)
    }

    @Test(arguments: shapes, [false, true])
    func matchesTheDefinition(_ size: (b: Int, t: Int, c: Int, w: Int), silu: Bool) {
        let shape = ShortConvolutionShape(batch: size.b, time: size.t, channels: size.c, taps: size.w)
        let count = size.b * size.t * size.c, pastCount = size.b * (size.w - 1) * size.c
        let x = randomFloats(count, seed: 1), past = randomFloats(pastCount, seed: 2), g = randomFloats(count, seed: 3)
        let w = randomFloats(size.w * size.c, seed: 4), bias = randomFloats(size.c, seed: 5)
        let expected = Self.reference(
            x, past: past, w, bias, g, silu: silu, b: size.b, t: size.t, c: size.c, taps: size.w)
        var results: [[Float]] = []
        for pool in [onePool, twoPool] {
            var y = zeros(count), dPre = g, dx = zeros(count), dPast = zeros(pastCount), dw = zeros(size.w * size.c)
            ShortConvolutionKernel.forward(
                x, past: past, weight: w, bias: bias, silu: silu, into: &y, shape: shape, threads: pool)
            if silu {
                ShortConvolutionKernel.slope(
                    g, x: x, past: past, weight: w, bias: bias, into: &dPre, shape: shape, threads: pool)
            }
            ShortConvolutionKernel.inputGradient(
                dPre, weight: w, into: &dx, dPast: &dPast, shape: shape, threads: pool)
            ShortConvolutionKernel.weightGradient(
                dPre, x: x, past: past, addingTo: &dw, shape: shape, threads: pool)
            #expect(relativeError(y, expected.y) < 1e-6)
            #expect(relativeError(dx, expected.dx) < 1e-6)
            #expect(relativeError(dPast, expected.dPast) < 1e-6)
            #expect(relativeError(dw, expected.dw) < 1e-6)
            results.append(y + dx + dPast + dw)
        }
        expectSameBits(results[0], results[1])
    }

    @Test func theLastTapMeetsTheCurrentToken() {
        let shape = ShortConvolutionShape(batch: 1, time: 6, channels: 2, taps: 4)
        let x = (0..<12).map(Float.init), w: [Float] = [1, 0, 0, 0, 0, 0, 0, 1]  // delay by 3; identity
        var y = zeros(12)
        ShortConvolutionKernel.forward(
            x, past: nil, weight: w, bias: nil, silu: false, into: &y, shape: shape, threads: onePool)
        #expect(y == [0, 1, 0, 3, 0, 5, 0, 7, 2, 9, 4, 11])
    }

    /// Taps ahead of the token: as if the sequence were shifted, zeros behind it.
    @Test(arguments: [1, 3]) func looksAhead(ahead: Int) {
        let (time, channels, taps) = (9, 17, 5)
        let plain = ShortConvolutionShape(batch: 1, time: time + ahead, channels: channels, taps: taps)
        let shape = ShortConvolutionShape(batch: 1, time: time, channels: channels, taps: taps, ahead: ahead)
        let count = time * channels, shift = ahead * channels
        let x = randomFloats(count, seed: 1), g = randomFloats(count, seed: 2)
        let w = randomFloats(taps * channels, seed: 3), bias = randomFloats(channels, seed: 4)
        let longX = x + zeros(shift), longG = zeros(shift) + g
        var y = zeros(count), dPre = y, dx = y, dw = zeros(w.count)
        var longY = zeros(count + shift), longPre = longY, longDx = longY, longDw = dw
        ShortConvolutionKernel.forward(
            x, past: nil, weight: w, bias: bias, silu: true, into: &y, shape: shape, threads: onePool)
        ShortConvolutionKernel.slope(
            g, x: x, past: nil, weight: w, bias: bias, into: &dPre, shape: shape, threads: onePool)
        ShortConvolutionKernel.inputGradient(
            dPre, weight: w, into: &dx, dPast: nil, shape: shape, threads: onePool)
        ShortConvolutionKernel.weightGradient(
            dPre, x: x, past: nil, addingTo: &dw, shape: shape, threads: onePool)
        ShortConvolutionKernel.forward(
            longX, past: nil, weight: w, bias: bias, silu: true, into: &longY, shape: plain, threads: onePool)
        ShortConvolutionKernel.slope(
            longG, x: longX, past: nil, weight: w, bias: bias, into: &longPre, shape: plain, threads: onePool)
        ShortConvolutionKernel.inputGradient(
            longPre, weight: w, into: &longDx, dPast: nil, shape: plain, threads: onePool)
        ShortConvolutionKernel.weightGradient(
            longPre, x: longX, past: nil, addingTo: &longDw, shape: plain, threads: onePool)
        expectSameBits(y, Array(longY[shift...]))
        expectSameBits(dx, Array(longDx[..<count]))
        #expect(relativeError(dw, longDw.map(Double.init)) < 1e-6)
    }

    /// The carry of any cut is the last rows of everything so far, and its gradient goes back there.
    @Test(arguments: [1, 2, 3, 5]) func carry(time: Int) {
        let shape = ShortConvolutionShape(batch: 2, time: time, channels: 3, taps: 4)
        let x = randomFloats(2 * time * 3, seed: 1), past = randomFloats(2 * 9, seed: 2)
        var next = zeros(18), dx = zeros(x.count), dPast = zeros(18)
        ShortConvolutionKernel.carry(x, past: past, into: &next, shape: shape)
        ShortConvolutionKernel.carryGradient(next, addingTo: &dx, dPast: &dPast, shape: shape)
        for b in 0..<2 {
            let rows = Array(past[b * 9..<b * 9 + 9] + x[b * time * 3..<(b + 1) * time * 3])
            #expect(Array(next[b * 9..<b * 9 + 9]) == Array(rows.suffix(9)))
            let kept = rows.enumerated().map { $0.offset < rows.count - 9 ? 0 : $0.element }
            #expect(Array(dPast[b * 9..<b * 9 + 9] + dx[b * time * 3..<(b + 1) * time * 3]) == kept)
        }
    }
}
