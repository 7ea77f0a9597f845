/// What one step trains or evaluates on.
public struct Batch: Sendable, Equatable {
    /// A target that takes no part in the loss.
    public static let ignored: Int32 = -1

    /// `B`, the rows of this batch.
    public var size: Int
    /// `T`.
    public var length: Int
    /// `[B, T]`, row-major.
    public var inputs: [Int32]
    /// `[B, T]`, the token after each input, or `ignored`.
    public var targets: [Int32]
    /// `[B]`, one number for every sample ever drawn: random streams such as dropout are keyed by it.
    public var sampleIDs: [UInt64]
    /// Whether the rows start a new sequence, so that no carry from the batch before may enter.
    public var resetsCarry: Bool

    /// Targets that count in the loss.
    public var targetCount: Int { targets.count { $0 != Self.ignored } }

    init(size: Int, length: Int, resetsCarry: Bool) {
        self.size = size
        self.length = length
        self.resetsCarry = resetsCarry
        inputs = [Int32](repeating: 0, count: size * length)
        targets = [Int32](repeating: Self.ignored, count: size * length)
        sampleIDs = []
    }

    /// Fills `row` with `count ≤ T` inputs from `start` on and the tokens after them; the rest stays ignored.
    mutating func fill(row: Int, from tokens: TokenSequence, start: Int, count: Int) {
        let offset = row * length
        inputs.withUnsafeMutableBufferPointer { tokens.copy(start..<start + count, to: $0.baseAddress! + offset) }
        targets.withUnsafeMutableBufferPointer {
            tokens.copy(start + 1..<start + count + 1, to: $0.baseAddress! + offset)
        }
    }
}
