/// The extents of a row-major tensor of one to four axes, stored inline (no heap allocation).
public struct Shape: Equatable, Hashable, Sendable, CustomStringConvertible {
    /// Number of axes, 1 to 4.
    public let rank: Int
    private let extents: SIMD4<Int>

    public init(_ a: Int) { rank = 1; extents = SIMD4(a, 1, 1, 1) }
    public init(_ a: Int, _ b: Int) { rank = 2; extents = SIMD4(a, b, 1, 1) }
    public init(_ a: Int, _ b: Int, _ c: Int) { rank = 3; extents = SIMD4(a, b, c, 1) }
    public init(_ a: Int, _ b: Int, _ c: Int, _ d: Int) { rank = 4; extents = SIMD4(a, b, c, d) }

    /// Number of elements.
    public var count: Int { extents[0] * extents[1] * extents[2] * extents[3] }

    public subscript(_ axis: Int) -> Int { extents[axis] }

    public var dimensions: [Int] { (0..<rank).map { extents[$0] } }

    public var description: String { "[" + dimensions.map(String.init).joined(separator: ", ") + "]" }
}
