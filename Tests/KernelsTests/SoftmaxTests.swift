import Glibc
import Kernels
import Testing

@Suite struct SoftmaxTests {
    @Test(arguments: awkwardSizes)
    func forwardAndBackward(width: Int) {
        let rows = 5, count = rows * width
        let x = randomFloats(count, seed: 1, scale: 30), dy = randomFloats(count, seed: 2)
        var y = zeros(count), dx = zeros(count), lse = zeros(rows)
        Softmax.forward(x, into: &y, rows: rows, width: width, threads: twoPool)
        Softmax.backward(dy, y: y, into: &dx, rows: rows, width: width, threads: twoPool)
        Softmax.logSumExp(x, into: &lse, rows: rows, width: width, threads: twoPool)
        var yReference = [Double](), dxReference = [Double](), lseReference = [Double]()
        for r in 0..<rows {
            let row = x[r * width..<(r + 1) * width].map(Double.init),
                g = dy[r * width..<(r + 1) * width].map(Double.init)
            let top = row.max()!, sum = row.reduce(0) { $0 + exp($1 - top) }
            let p = row.map { exp($0 - top) / sum }
            let dot = zip(p, g).reduce(0) { $0 + $1.0 * $1.1 }
            yReference += p
            dxReference += zip(p, g).map { $0 * ($1 - dot) }
            lseReference.append(top + log(sum))
        }
        #expect(relativeError(y, yReference) < 3e-7)
        if width > 1 { #expect(relativeError(dx, dxReference) < 3e-6) }
        #expect(relativeError(lse, lseReference) < 3e-7)
    }

    @Test func infinitiesAndNaN() {
        let x: [Float] = [0, -.infinity, 1, -.infinity, -.infinity, -.infinity, 0, .nan, 1, 0, .infinity, 1]
        var y = zeros(12), lse = zeros(4)
        Softmax.forward(x, into: &y, rows: 4, width: 3, threads: onePool)
        Softmax.logSumExp(x, into: &lse, rows: 4, width: 3, threads: onePool)
        #expect(y[1] == 0 && abs(y[0] + y[2] - 1) < 1e-6)
        #expect(y[3...].allSatisfy { $0.isNaN || $0 == 0 } && y[3].isNaN && y[6].isNaN)
        #expect(lse[1] == -.infinity && lse[2].isNaN && lse[3] == .infinity)
    }
}
