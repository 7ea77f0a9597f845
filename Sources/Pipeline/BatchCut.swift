/// How a batch is cut: rows into micro-batches, positions into chunks. Neither needs to divide.
///
/// Replicas share out the micro-batches of one cut, so that units of work are the same however many there are. Rows
/// are always those of the whole batch.
public struct BatchCut: Sendable, Equatable {
    public let rows, time, chunkCount: Int
    /// Micro-batches of all replicas together.
    public let totalMicroBatchCount: Int
    /// Those of this replica, which counts them from 0.
    public let microBatches: Range<Int>

    /// - Parameter microBatchCount: of all replicas together.
    public init(rows: Int, time: Int, microBatchCount: Int, chunkCount: Int, share: ReplicaShare = .whole) {
        self.rows = rows
        self.time = time
        self.chunkCount = chunkCount
        totalMicroBatchCount = microBatchCount
        microBatches = share.range(of: microBatchCount)
    }

    /// Micro-batches of this replica.
    public var microBatchCount: Int { microBatches.count }

    public func rows(ofMicroBatch m: Int) -> Range<Int> {
        firstRow(microBatches.lowerBound + m)..<firstRow(microBatches.lowerBound + m + 1)
    }
    /// The rows of all micro-batches of a replica.
    public func rows(of share: ReplicaShare) -> Range<Int> {
        let microBatches = share.range(of: totalMicroBatchCount)
        return firstRow(microBatches.lowerBound)..<firstRow(microBatches.upperBound)
    }
    private func firstRow(_ microBatch: Int) -> Int { rows * microBatch / totalMicroBatchCount }
    public func positions(ofChunk c: Int) -> Range<Int> { time * c / chunkCount..<time * (c + 1) / chunkCount }
    /// Flattened rows of a unit's activation.
    public func tokens(_ unit: UnitOfWork) -> Int {
        rows(ofMicroBatch: unit.microBatch).count * positions(ofChunk: unit.chunk).count
    }
}
