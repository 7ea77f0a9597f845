import Glibc
import Kernels
import Testing

@Suite struct CrossEntropyTests {
    @Test(arguments: awkwardSizes)
    func lossesAndGradient(classes: Int) {
        let rows = 6, scales: [Float] = [0.25, 2, 1, 0, 0.125, 3]
        let logits = randomFloats(rows * classes, seed: 1, scale: 20)
        let targets = (0..<rows).map { $0 == 2 ? -1 : Int32($0 * 37 % classes) }
        var losses = zeros(rows), only = zeros(rows), gradient = logits
        CrossEntropy.losses(logits, targets: targets, into: &only, rows: rows, classes: classes, threads: twoPool)
        CrossEntropy.lossesAndGradient(
            &gradient, targets: targets, into: &losses, rows: rows, classes: classes, scales: scales, threads: twoPool)
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
                let expected = Double(scales[r]) * (exp(row[c] - lse) - (c == Int(targets[r]) ? 1 : 0))
                #expect(abs(Double(g) - expected) < 4e-7 * max(0.25, Double(scales[r])))
            }
        }
    }

    @Test(arguments: awkwardSizes)
    func distilledLossesAndGradient(classes: Int) {
        let rows = 6, scales: [Float] = [0.25, 2, 1, 0, 0.125, 3], share: Float = 0.3
        let logits = randomFloats(rows * classes, seed: 1, scale: 8),
            teacher = randomFloats(rows * classes, seed: 2, scale: 8)
        let targets = (0..<rows).map { $0 == 2 ? -1 : Int32($0 * 37 % classes) }
        var losses = zeros(rows), divergences = zeros(rows), gradient = logits
        CrossEntropy.distilled(
            &gradient, teacher: teacher, targets: targets, losses: &losses, divergences: &divergences, rows: rows,
            classes: classes, share: share, scales: scales, threads: twoPool)
        func logSoftmax(_ all: [Float], _ r: Int) -> [Double] {
            let row = all[r * classes..<(r + 1) * classes].map(Double.init), top = row.max()!
            let lse = top + log(row.reduce(0) { $0 + exp($1 - top) })
            return row.map { $0 - lse }
        }
        for r in 0..<rows {
            let got = gradient[r * classes..<(r + 1) * classes]
            if targets[r] < 0 {
                #expect(losses[r] == 0 && divergences[r] == 0 && got.allSatisfy { $0 == 0 })
                continue
            }
            let (p, q) = (logSoftmax(logits, r), logSoftmax(teacher, r))
            #expect(abs(Double(losses[r]) + p[Int(targets[r])]) < 1e-5)
            let divergence = zip(p, q).reduce(0) { $0 + exp($1.1) * ($1.1 - $1.0) }
            #expect(abs(Double(divergences[r]) - divergence) < 1e-5)
            for (c, g) in got.enumerated() {
                let scale = Double(scales[r]), hit: Double = c == Int(targets[r]) ? 1 : 0
                let goal: Double = Double(1 - share) * hit + Double(share) * exp(q[c])
                let error: Double = abs(Double(g) - scale * (exp(p[c]) - goal))
                #expect(error < 4e-6 * max(0.25, scale))
            }
        }
    }

    @Test(arguments: awkwardSizes)
    func hitsAreArgMaxes(classes: Int) {
        let rows = 40
        // Few different values, so that many rows have several largest ones.
        let logits = randomFloats(rows * classes, seed: 3, scale: 2).map { $0.rounded() }
        func argMax(_ r: Int) -> Int32 {
            let row = logits[r * classes..<(r + 1) * classes]
            return Int32(row.firstIndex(of: row.max()!)! - r * classes)
        }
        let targets = (0..<rows).map { $0 % 5 == 2 ? -1 : $0 % 2 == 0 ? argMax($0) : Int32($0 * 37 % classes) }
        var hits = [Int32](repeating: 7, count: rows)
        CrossEntropy.hits(logits, targets: targets, into: &hits, rows: rows, classes: classes, threads: twoPool)
        #expect(hits == (0..<rows).map { targets[$0] == argMax($0) ? 1 : 0 })
    }

    @Test(arguments: [0, 1, 2]) func nanIsNoHit(place: Int) {
        var logits: [Float] = [0, 1, 0], hits: [Int32] = [7]
        logits[place] = .nan
        CrossEntropy.hits(logits, targets: [1], into: &hits, rows: 1, classes: 3, threads: onePool)
        #expect(hits == [0])
    }

    @Test func nanReachesLossAndGradient() {
        var logits: [Float] = [0, .nan, 1], losses = zeros(1)
        CrossEntropy.lossesAndGradient(
            &logits, targets: [0], into: &losses, rows: 1, classes: 3, scales: [1], threads: onePool)
        #expect(losses[0].isNaN && logits.allSatisfy { $0.isNaN })
    }
}
