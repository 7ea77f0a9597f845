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

    public init(rows: Int, time: Int, inputs: [Int32], targets: [Int32], restarts: [Bool]) {
        require(
            inputs.count == rows * time && targets.count == rows * time && restarts.count == rows,
            "TokenBatch: got \(inputs.count) inputs, \(targets.count) targets, \(restarts.count) restarts; expected \(rows) × \(time)"
        )
        self.rows = rows
        self.time = time
        self.inputs = inputs
        self.targets = targets
        self.restarts = restarts
    }

    /// Tokens that count in the loss.
    public var targetCount: Int { targets.reduce(0) { $0 + ($1 >= 0 ? 1 : 0) } }

    /// `[B]`: those of each row.
    public var targetCounts: [Int] {
        (0..<rows).map { row in targets[row * time..<(row + 1) * time].reduce(0) { $0 + ($1 >= 0 ? 1 : 0) } }
    }
}
