import Glibc
import Testing

/// Root mean square of `got − reference`, relative to that of `reference`; infinite when the counts
/// differ or anything is not finite.
public func relativeError(_ got: [Float], _ reference: [Float]) -> Double {
    guard got.count == reference.count else { return .infinity }
    var (difference, norm) = (0.0, 0.0)
    for (g, r) in zip(got, reference) {
        difference += (Double(g) - Double(r)) * (Double(g) - Double(r))
        norm += Double(r) * Double(r)
    }
    let ratio = difference == 0 ? 0 : (difference / max(norm, 1e-300)).squareRoot()
    return ratio.isFinite ? ratio : .infinity
}

/// Records an issue when `got` is further than `ratio` (relative root mean square) from `reference`.
public func assertClose(
    _ name: String, _ reference: [Float], _ got: [Float], ratio: Double,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    let error = relativeError(got, reference)
    if error <= ratio { return }
    let found = got.count == reference.count ? "off by \(error)" : "\(got.count) elements, not \(reference.count)"
    Issue.record("\(name): \(found); allowed \(ratio)", sourceLocation: sourceLocation)
}

/// Records an issue that names the first element whose bits differ.
public func assertSameBits(
    _ name: String, _ reference: [Float], _ got: [Float], sourceLocation: SourceLocation = #_sourceLocation
) {
    if got.count != reference.count {
        Issue.record("\(name): \(got.count) elements, not \(reference.count)", sourceLocation: sourceLocation)
        return
    }
    guard let i = got.indices.first(where: { got[$0].bitPattern != reference[$0].bitPattern }) else { return }
    let count = got.indices.count { got[$0].bitPattern != reference[$0].bitPattern }
    Issue.record(
        "\(name): \(count) of \(got.count) elements differ, first \(i): \(got[i]), not \(reference[i])",
        sourceLocation: sourceLocation)
}
