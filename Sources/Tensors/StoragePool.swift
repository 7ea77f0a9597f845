import Glibc
import Kernels

/// What a buffer is for; peaks are reported per category (`bench`, `plan`).
public enum MemoryCategory: Int, CaseIterable, Sendable {
    case parameters, gradients, optimizer, activations, messages
}

/// Recycles 64-byte aligned float buffers by size class, so that after the first step nothing is
/// asked of the system again.
///
/// One pool per rank. Not thread-safe: buffers are taken and given back on the rank's own thread;
/// kernel workers only see raw pointers.
public final class StoragePool {
    /// Fresh and recycled buffers are filled with NaN, so that a read of anything never written
    /// shows up as a non-finite loss. On in test runs (`SEQTRAIN_CHECKED=1`) and in debug builds.
    public let fillsWithNaN: Bool

    private var free: [Int: [UnsafeMutableRawPointer]] = [:]
    private var currentBytes = [Int](repeating: 0, count: MemoryCategory.allCases.count)
    private var peakBytesByCategory = [Int](repeating: 0, count: MemoryCategory.allCases.count)
    private var currentTotal = 0

    /// Highest sum of live bytes over all categories since creation or `resetPeaks()`.
    public private(set) var peakBytes = 0
    /// Buffers asked of the system so far; constant once warmed up.
    public private(set) var systemAllocationCount = 0
    /// Bytes held from the system, live or free.
    public private(set) var reservedBytes = 0

    public init(fillsWithNaN: Bool = StoragePool.checkedByDefault) {
        self.fillsWithNaN = fillsWithNaN
    }

    deinit {
        for list in free.values { for pointer in list { Glibc.free(pointer) } }
    }

    public static let checkedByDefault: Bool = {
        #if DEBUG
            return true
        #else
            return getenv("SEQTRAIN_CHECKED").map { String(cString: $0) == "1" } ?? false
        #endif
    }()

    /// Live bytes of one category.
    public func liveBytes(_ category: MemoryCategory) -> Int { currentBytes[category.rawValue] }
    /// Live bytes of all categories.
    public var liveBytes: Int { currentTotal }
    /// Highest live bytes of one category.
    public func peakBytes(_ category: MemoryCategory) -> Int { peakBytesByCategory[category.rawValue] }

    public func resetPeaks() {
        peakBytesByCategory = currentBytes
        peakBytes = currentTotal
    }

    /// Four classes per power of two: at most a quarter of a buffer is slack, and layers of
    /// similar size share buffers.
    static func sizeClass(bytes: Int) -> Int {
        let minimum = max(bytes, 256)
        let power = 1 << (Int.bitWidth - 1 - minimum.leadingZeroBitCount)
        let step = power / 4
        return (minimum + step - 1) / step * step
    }

    func take(bytes: Int, category: MemoryCategory) -> UnsafeMutableRawPointer {
        let pointer: UnsafeMutableRawPointer
        if let recycled = free[bytes]?.popLast() {
            pointer = recycled
        } else {
            var raw: UnsafeMutableRawPointer?
            let status = posix_memalign(&raw, 64, bytes)
            guard status == 0, let raw else {
                fatalError(
                    "out of memory: \(bytes) bytes for \(category) on top of \(reservedBytes) held; use more ranks, more micro-batches or parallel.rematerialize"
                )
            }
            systemAllocationCount += 1
            reservedBytes += bytes
            pointer = raw
        }
        if fillsWithNaN {
            pointer.assumingMemoryBound(to: Float.self).update(repeating: .nan, count: bytes / 4)
        }
        currentBytes[category.rawValue] += bytes
        currentTotal += bytes
        peakBytesByCategory[category.rawValue] = max(
            peakBytesByCategory[category.rawValue], currentBytes[category.rawValue])
        peakBytes = max(peakBytes, currentTotal)
        return pointer
    }

    func giveBack(_ pointer: UnsafeMutableRawPointer, bytes: Int, category: MemoryCategory) {
        currentBytes[category.rawValue] -= bytes
        currentTotal -= bytes
        free[bytes, default: []].append(pointer)
    }
}
