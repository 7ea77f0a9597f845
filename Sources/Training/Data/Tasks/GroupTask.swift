public import Models

/// The word problem of a finite group: inputs are elements, uniform and independent, and the target at every position
/// is the product of all so far, left to right. Chance is `1 / |G|`.
///
/// Elements are permutations in lexicographic order, the identity being 0; `(a·b)(i) = b(a(i))`.
///
/// Keys: `group` (`s3`, `s4`, `s5`, `a4`, `a5`, or `z2` ... `z60`, the rotations of so many points), `moved_points`
/// (all: inputs are only elements that move at most so many points; 2 leaves the swaps and the identity).
/// Source: arXiv 2404.08819, 2502.10297.
public struct GroupTask: GeneratedTask {
    public static let name = "group"
    public var vocabularySize: Int { elements.count }
    /// Permutations of the points `0..<n`.
    public let elements: [[Int]]
    private let length: Int
    /// `[|G|, |G|]`: the number of `a·b`.
    private let products: [Int32]
    /// Elements that occur as inputs.
    private let inputs: [Int32]

    public init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError) {
        self.length = length
        let name = try reader.choice(
            "group", of: ["s3", "s4", "s5", "a4", "a5"] + (2...60).map { "z\($0)" }, default: "s3")
        let pointCount = Int(name.dropFirst())!
        let elements =
            switch name.first! {
            case "s": Self.permutations(pointCount)
            case "a": Self.permutations(pointCount).filter(Self.isEven)
            default: (0..<pointCount).map { shift in (0..<pointCount).map { ($0 + shift) % pointCount } }
            }
        let numbers = Dictionary(uniqueKeysWithValues: elements.enumerated().map { ($1, Int32($0)) })
        products = elements.flatMap { a in elements.map { b in numbers[a.map { b[$0] }]! } }
        let moved = try reader.int("moved_points", default: pointCount, in: 2...pointCount)
        inputs = elements.filter { $0.enumerated().count { $0 != $1 } <= moved }.map { numbers[$0]! }
        self.elements = elements
    }

    public func example(_ random: inout TaskRandom) -> TaskExample {
        var example = TaskExample(length: length)
        var product: Int32 = 0
        for place in 0..<length {
            let element = inputs[random.below(inputs.count)]
            product = products[Int(product) * elements.count + Int(element)]
            example.inputs[place] = element
            example.targets[place] = product
        }
        return example
    }

    /// All permutations of `0..<count`, in lexicographic order.
    private static func permutations(_ count: Int) -> [[Int]] {
        var result: [[Int]] = [[]]
        for _ in 0..<count {
            result = result.flatMap { start in (0..<count).filter { !start.contains($0) }.map { start + [$0] } }
        }
        return result
    }

    private static func isEven(_ permutation: [Int]) -> Bool {
        let inversions = permutation.indices.reduce(0) { sum, i in
            sum + permutation[(i + 1)...].count { $0 < permutation[i] }
        }
        return inversions % 2 == 0
    }
}
