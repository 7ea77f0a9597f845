import Glibc
import Kernels
import Testing

@Suite struct CrossEntropyTests {
    @Test(arguments: awkwardSizes)
    func lossesAndGradient(classes: Int) {
        let rows = 6, scale: Float = 0.25
        let logits = randomFloats(rows * classes, seed: 1, scale: 20)
        let targets = (0..<rows).map { $0 == 2 ? -1 : Int32($0 * 37 % classes) }
        var losses = zeros(rows), only = zeros(rows), gradient = logits
        CrossEntropy.losses(logits, targets: targets, into: &only, rows: rows, classes: classes, threads: twoPool)
        CrossEntropy.lossesAndGradient(
            &gradient, targets: targets, into: &losses, rows: rows, classes: classes, scale: scale, threads: twoPool)
        expectSameBits(losses, only)
        for r in 0..<rows {
            let row = logits[r * classes..<(r + 1) * classes].map(Double.init)
            let got = gradient[r * classes..<(r + 1) * classes]
            if targets[r] < 0 {
                #expect(losses[r] == 0 && got.allSatisfy { $0 == 0 })
                continue
            }
            let top = row.max()!, lse = top + log(row.reduce(0) { $0 + exp($1 - top) })
            #expect(abs(Double(losses[r]) - (lse - row[Int(targets[r])])) < 1e-5)
            for (c, g) in got.enumerated() {
                let expected = Double(scale) * (exp(row[c] - lse) - (c == Int(targets[r]) ? 1 : 0))
                #expect(abs(Double(g) - expected) < 1e-7)
            }
        }
    }

    @Test func nanReachesLossAndGradient() {
        var logits: [Float] = [0, .nan, 1], losses = zeros(1)
        CrossEntropy.lossesAndGradient(
            &logits, targets: [0], into: &losses, rows: 1, classes: 3, scale: 1, threads: onePool)
        #expect(losses[0].isNaN && logits.allSatisfy { $0.isNaN })
    }
}
