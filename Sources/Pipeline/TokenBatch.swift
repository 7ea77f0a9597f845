import Kernels

/// The tokens of one step: the same on every rank that looks at them.
public struct TokenBatch: Sendable {
    /// Sequences (`B`) and tokens each (`T`).
    public let rows: Int
    public let time: Int
    /// `[B, T]`.
    public let inputs: [Int32]
    /// `[B, T]`, the token that follows each input; negative ids are ignored by the loss.
    public let targets: [Int32]
    /// `[B]`: whether a row starts afresh, so that the state kept from the previous batch is dropped.
    public let restarts: [Bool]
    /// Positions at the start of every row whose targets have a loss of their own, added with a weight to that of the others;
    /// nil where all count alike.
    public let prefix: Prefix?

    public struct Prefix: Sendable, Equatable {
        public var length: Int
        /// Factor on the mean of their losses.
        public var weight: Double

        public init(length: Int, weight: Double) { (self.length, self.weight) = (length, weight) }
    }

    public init(
        rows: Int, time: Int, inputs: [Int32], targets: [Int32], restarts: [Bool], prefix: Prefix? = nil
    ) {
        require(
            inputs.count == rows * time && targets.count == rows * time && restarts.count == rows,
            "TokenBatch: got \(inputs.count) inputs, \(targets.count) targets, \(restarts.count) restarts; expected \(rows) × \(time)"
        )
        self.rows = rows
        self.time = time
        self.inputs = inputs
        self.targets = targets
        self.restarts = restarts
        self.prefix = prefix
    }

    /// Tokens that count in the loss.
    public var targetCount: Int { targetCounts.reduce(0, +) }

    /// `[B]`: those of each row.
    public var targetCounts: [Int] { counts(in: (prefix?.length ?? 0)..<time) }

    /// Tokens that count in the loss of the prefix.
    public var prefixTargetCount: Int { counts(in: 0..<(prefix?.length ?? 0)).reduce(0, +) }

    private func counts(in positions: Range<Int>) -> [Int] {
        (0..<rows).map { row in
            targets[row * time + positions.lowerBound..<row * time + positions.upperBound].count { $0 >= 0 }
        }
    }
}
