import Kernels

/// What every operation of one rank needs: buffers and threads.
public final class ComputeContext {
    public let pool: StoragePool
    public let threads: ThreadPool
    /// Called between operations: a transport that makes no progress in the background hands large messages on
    /// here, while the rank computes.
    public var betweenOperations: (() -> Void)?

    public init(threadCount: Int = 1, pool: StoragePool = StoragePool()) {
        self.pool = pool
        threads = ThreadPool(threadCount: threadCount)
    }

    public func tensor(_ shape: Shape, _ category: MemoryCategory = .activations) -> Tensor {
        Tensor(shape, pool: pool, category: category)
    }

    public func zeros(_ shape: Shape, _ category: MemoryCategory = .activations) -> Tensor {
        let result = tensor(shape, category)
        result.fill(0)
        return result
    }
}
