import Kernels
import Testing

@Suite struct NormsTests {
    static let shapes = [(1, 1), (7, 63), (100, 7), (63, 100), (9, 257), (200, 512)]

    /// `y`, and the gradients of `Σ g·y` with respect to x and the weight, of either norm, from the definition.
    static func reference(
        _ x: [Float], _ w: [Float], _ g: [Float], rows: Int, width: Int, epsilon: Double, centred: Bool
    )
        -> (y: [Double], dx: [Double], dw: [Double])
    {
        var y = [Double](), dx = [Double](), dw = [Double](repeating: 0, count: width)
        for r in 0..<rows {
            let row = (0..<width).map { Double(x[r * width + $0]) }
            let mean = centred ? row.reduce(0, +) / Double(width) : 0
            let variance = row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(width)
            let rstd = 1 / (variance + epsilon).squareRoot()
            let z = row.map { ($0 - mean) * rstd }
            let gw = (0..<width).map { Double(g[r * width + $0]) * Double(w[$0]) }
            let pull = zip(gw, z).reduce(0) { $0 + $1.0 * $1.1 } / Double(width)
            let shift = centred ? gw.reduce(0, +) / Double(width) : 0
            for c in 0..<width {
                y.append(z[c] * Double(w[c]))
                dx.append(rstd * (gw[c] - shift - z[c] * pull))
                dw[c] += Double(g[r * width + c]) * z[c]
            }
        }
        return (y, dx, dw)
    }

    @Test(arguments: shapes)
    func rmsNorm(rows: Int, width: Int) {
        let count = rows * width
        let x = randomFloats(count, seed: 1, scale: 3), w = randomFloats(width, seed: 2),
            g = randomFloats(count, seed: 3)
        let expected = Self.reference(x, w, g, rows: rows, width: width, epsilon: 1e-5, centred: false)
        var results: [[Float]] = []
        for pool in [onePool, twoPool] {
            var y = zeros(count), rstd = zeros(rows), dx = zeros(count), dw = zeros(width)
            Norms.rms(x, weight: w, epsilon: 1e-5, into: &y, rstd: &rstd, rows: rows, width: width, threads: pool)
            Norms.rmsInputGradient(
                g, x: x, weight: w, rstd: rstd, accumulate: false, into: &dx, rows: rows, width: width, threads: pool)
            Norms.rmsWeightGradient(g, x: x, rstd: rstd, addingTo: &dw, rows: rows, width: width, threads: pool)
            #expect(relativeError(y, expected.y) < 1e-6)
            // Width 1 leaves only ε of the gradient, after cancellation.
            if width > 1 { #expect(relativeError(dx, expected.dx) < 1e-6) }
            #expect(relativeError(dw, expected.dw) < 1e-6)
            var sum = g
            Norms.rmsInputGradient(
                g, x: x, weight: w, rstd: rstd, accumulate: true, into: &sum, rows: rows, width: width, threads: pool)
            expectSameBits(sum, zip(g, dx).map { $0 + $1 })
            results.append(y + rstd + dx + dw)
        }
        expectSameBits(results[0], results[1])
    }

    @Test(arguments: shapes)
    func residualVariantStoresAndNormalisesTheSum(rows: Int, width: Int) {
        let count = rows * width
        let x = randomFloats(count, seed: 4), residual = randomFloats(count, seed: 5), w = randomFloats(width, seed: 6)
        var sum = zeros(count), y = zeros(count), rstd = zeros(rows), plain = zeros(count)
        Norms.rms(
            x, residual: residual, sum: &sum, weight: w, epsilon: 1e-5, into: &y, rstd: &rstd, rows: rows, width: width,
            threads: twoPool)
        #expect(sum == zip(x, residual).map { $0 + $1 })
        Norms.rms(sum, weight: w, epsilon: 1e-5, into: &plain, rstd: &rstd, rows: rows, width: width, threads: twoPool)
        #expect(relativeError(y, plain.map(Double.init)) < 3e-7)
    }

    @Test(arguments: shapes)
    func layerNorm(rows: Int, width: Int) {
        let count = rows * width
        let x = randomFloats(count, seed: 1, scale: 3).map { $0 + 10 }, w = randomFloats(width, seed: 2)
        let g = randomFloats(count, seed: 3), bias = randomFloats(width, seed: 4)
        let expected = Self.reference(x, w, g, rows: rows, width: width, epsilon: 1e-5, centred: true)
        var results: [[Float]] = []
        for pool in [onePool, twoPool] {
            var y = zeros(count), mean = zeros(rows), rstd = zeros(rows), dx = zeros(count), dw = zeros(width)
            Norms.layer(
                x, weight: w, bias: bias, epsilon: 1e-5, into: &y, mean: &mean, rstd: &rstd, rows: rows, width: width,
                threads: pool)
            Norms.layerInputGradient(
                g, x: x, weight: w, mean: mean, rstd: rstd, accumulate: false, into: &dx, rows: rows, width: width,
                threads: pool)
            Norms.layerWeightGradient(
                g, x: x, mean: mean, rstd: rstd, addingTo: &dw, rows: rows, width: width, threads: pool)
            // The mean of 10 costs a digit of the centred values.
            #expect(relativeError(y, (0..<count).map { expected.y[$0] + Double(bias[$0 % width]) }) < 5e-6)
            if width > 1 {
                #expect(relativeError(dx, expected.dx) < 5e-6)
                #expect(relativeError(dw, expected.dw) < 5e-6)
            }
            results.append(y + mean + rstd + dx + dw)
        }
        expectSameBits(results[0], results[1])
    }

    @Test func nanStaysInItsRow() {
        let rows = 3, width = 40
        var x = randomFloats(rows * width, seed: 1)
        x[width + 33] = .nan
        let w = randomFloats(width, seed: 2)
        var y = zeros(rows * width), rstd = zeros(rows)
        Norms.rms(x, weight: w, epsilon: 1e-5, into: &y, rstd: &rstd, rows: rows, width: width, threads: onePool)
        for r in 0..<rows { #expect(y[r * width..<(r + 1) * width].allSatisfy { $0.isNaN == (r == 1) }) }
    }

    @Test(arguments: shapes) func l2Norm(rows: Int, width: Int) {
        let count = rows * width
        let x = randomFloats(count, seed: 1, scale: 3), g = randomFloats(count, seed: 2)
        var y = zeros(count), rstd = zeros(rows), dx = zeros(count)
        Norms.l2(x, epsilon: 1e-6, into: &y, rstd: &rstd, rows: rows, width: width, threads: twoPool)
        Norms.l2Backward(g, y: y, rstd: rstd, into: &dx, rows: rows, width: width, threads: twoPool)
        var expectedY = [Double](), expectedDx = [Double]()
        for r in 0..<rows {
            let row = x[r * width..<(r + 1) * width].map(Double.init), upstream = g[r * width..<(r + 1) * width]
            let factor = 1 / (row.reduce(0) { $0 + $1 * $1 } + 1e-6).squareRoot()
            let dot = zip(row, upstream).reduce(0) { $0 + $1.0 * factor * Double($1.1) }
            expectedY += row.map { $0 * factor }
            expectedDx += zip(row, upstream).map { (Double($1) - $0 * factor * dot) * factor }
        }
        #expect(relativeError(y, expectedY) < 1e-6)
        if width > 1 { #expect(relativeError(dx, expectedDx) < 1e-6) }
    }
}
