import Glibc
import Kernels
import Testing

/// Sizes around the vector width (16), and away from its multiples.
let awkwardSizes = [1, 7, 63, 100, 257]

// A new pool at each use: tests run side by side, and a pool serves one caller at a time.
var onePool: ThreadPool { ThreadPool(threadCount: 1) }
var twoPool: ThreadPool { ThreadPool(threadCount: 2) }

/// Uniform in `[−scale, scale)`, the same for the same seed.
func randomFloats(_ count: Int, seed: UInt64, scale: Float = 1) -> [Float] {
    var values = [Float](repeating: 0, count: count)
    Philox.fillUniform(
        &values, low: -scale, high: scale, stream: PhiloxStream(seed: seed), count: count, threads: onePool)
    return values
}

func zeros(_ count: Int) -> [Float] { [Float](repeating: 0, count: count) }

/// Root mean square of the difference relative to that of the reference.
func relativeError(_ got: [Float], _ reference: [Double]) -> Double {
    var difference = 0.0, norm = 0.0
    for (g, r) in zip(got, reference) {
        difference += (Double(g) - r) * (Double(g) - r)
        norm += r * r
    }
    return got.count == reference.count ? (difference / max(norm, 1e-300)).squareRoot() : .infinity
}

/// Distance in units of the last place of the reference.
func ulps(_ got: Float, _ reference: Double) -> Double {
    let rounded = Float(reference)
    if rounded.isNaN { return got.isNaN ? 0 : .infinity }
    if rounded.isInfinite || got.isInfinite || got.isNaN { return got == rounded ? 0 : .infinity }
    return abs(Double(got) - reference) / Double(rounded.ulp)
}

/// Records an issue that names the first element whose bits differ.
func expectSameBits(_ a: [Float], _ b: [Float], sourceLocation: SourceLocation = #_sourceLocation) {
    let difference = zip(a, b).enumerated().first { $1.0.bitPattern != $1.1.bitPattern }
    if a.count == b.count && difference == nil { return }
    let found = difference.map { "element \($0): \($1.0) and \($1.1)" } ?? "\(a.count) and \(b.count) elements"
    Issue.record("bits differ: \(found)", sourceLocation: sourceLocation)
}
