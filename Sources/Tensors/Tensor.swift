import Kernels

/// Owns one pooled buffer and returns it when the last tensor that shares it is gone.
public final class Storage {
    public let pointer: UnsafeMutablePointer<Float>
    let bytes: Int
    let category: MemoryCategory
    private let pool: StoragePool

    init(pool: StoragePool, count: Int, category: MemoryCategory) {
        bytes = StoragePool.sizeClass(bytes: count * MemoryLayout<Float>.stride)
        pointer = pool.take(bytes: bytes, category: category).assumingMemoryBound(to: Float.self)
        self.category = category
        self.pool = pool
    }

    deinit { pool.giveBack(pointer, bytes: bytes, category: category) }
}

/// A contiguous row-major float32 array: shared storage plus a shape. Copying a tensor shares its
/// elements; `isUniquelyReferenced()` tells whether writing in place can be seen by anyone else.
public struct Tensor {
    public private(set) var storage: Storage
    public let shape: Shape

    /// Uninitialised elements (NaN in checked builds).
    public init(_ shape: Shape, pool: StoragePool, category: MemoryCategory = .activations) {
        storage = Storage(pool: pool, count: shape.count, category: category)
        self.shape = shape
    }

    private init(storage: Storage, shape: Shape) {
        self.storage = storage
        self.shape = shape
    }

    public var pointer: UnsafeMutablePointer<Float> { storage.pointer }
    public var count: Int { shape.count }
    /// Extent of the last axis.
    public var width: Int { shape[shape.rank - 1] }
    /// Product of all axes but the last.
    public var rows: Int { width == 0 ? 0 : count / width }

    public mutating func isUniquelyReferenced() -> Bool { isKnownUniquelyReferenced(&storage) }

    /// The same elements under another shape of equal count.
    public func reshaped(_ shape: Shape) -> Tensor {
        require(shape.count == count, "reshape of \(self.shape) to \(shape): element counts differ")
        return Tensor(storage: storage, shape: shape)
    }

    public func fill(_ value: Float) { pointer.update(repeating: value, count: count) }

    public func copy(from other: Tensor) {
        require(other.count == count, "copy of \(other.shape) into \(shape): element counts differ")
        pointer.update(from: other.pointer, count: count)
    }

    /// Copies `count` elements to the start.
    public func copy(from source: UnsafePointer<Float>, count: Int) { pointer.update(from: source, count: count) }

    public func copied(pool: StoragePool, category: MemoryCategory = .activations) -> Tensor {
        let result = Tensor(shape, pool: pool, category: category)
        result.copy(from: self)
        return result
    }

    public var array: [Float] { Array(UnsafeBufferPointer(start: pointer, count: count)) }
}
