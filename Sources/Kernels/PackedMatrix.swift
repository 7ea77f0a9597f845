import CKernels
import Glibc

/// The B operand `[k, n]` of a matrix product, packed once in the layout the kernels read and used many times
/// (recurrent weights: once per pass, read at every time step).
public final class PackedMatrix: @unchecked Sendable {
    /// Rows: the summed dimension.
    public let k: Int
    /// Columns.
    public let n: Int

    let instructionSet: InstructionSet
    let base: UnsafeMutablePointer<Float>

    /// Bytes held.
    public let byteCount: Int

    /// Reserves memory for a `[k, n]` matrix; ``pack(_:transposed:ld:threads:)`` fills it.
    public convenience init(k: Int, n: Int) {
        self.init(k: k, n: n, instructionSet: KernelVariant.current.instructionSet)
    }

    package init(k: Int, n: Int, instructionSet: InstructionSet) {
        require(k >= 0 && n >= 0, "PackedMatrix: [\(k), \(n)]; expected no negative size")
        self.k = k
        self.n = n
        self.instructionSet = instructionSet
        // The kernels prefetch, but never read, beyond the end.
        byteCount = (max(ck_gemm_packed_floats(instructionSet.rawValue, k, n), 1) * 4 + 63) / 64 * 64
        let memory = aligned_alloc(64, byteCount)
        require(memory != nil, "PackedMatrix: out of memory for \(byteCount) bytes")
        base = memory!.bindMemory(to: Float.self, capacity: byteCount / 4)
    }

    deinit { free(base) }

    /// Fills the matrix from `source`: `[k, n]` with row stride `ld`, or, when `transposed`, `[n, k]` with row stride `ld`.
    public func pack(_ source: UnsafePointer<Float>, transposed: Bool, ld: Int, threads: ThreadPool) {
        require(
            ld >= (transposed ? k : n),
            "PackedMatrix.pack: ld \(ld); expected at least \(transposed ? k : n) for [\(k), \(n)], transposed \(transposed)"
        )
        // About 64 KiB of output per task.
        let sliver = ck_gemm_sliver_width(instructionSet.rawValue)
        let columns = max(1, 16384 / max(1, k * sliver)) * sliver
        threads.run((n + columns - 1) / columns) { task, _ in
            ck_gemm_pack(
                instructionSet.rawValue, transposed ? 1 : 0, source, ld, k, n, task * columns,
                min(n, (task + 1) * columns), base)
        }
    }
}
