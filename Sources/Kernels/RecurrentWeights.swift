import CKernels
import Glibc

/// Recurrent weights `[gates·H, H]` packed for the time loops of ``LSTMKernel``, ``GRUKernel`` and ``ElmanKernel``, and how
/// those loops are shared out over the workers of a pool.
///
/// Made once per layer, packed once per pass (or when the weights change), used at every time step. Units are cut in blocks
/// of at most one sliver; a block holds all gates of its units, so a worker goes from product to cell while data is in L1.
/// Weights that fit a core's L2 several times over are shared out by batch rows, without barriers; larger ones by units, so
/// that each worker streams only its own. Neither changes a bit of the result.
public final class RecurrentWeights: @unchecked Sendable {
    /// Units, `H`.
    public let hidden: Int
    /// Gates per unit: 4 (LSTM), 3 (GRU) or 1 (Elman).
    public let gateCount: Int

    let instructionSet: InstructionSet
    let workerCount: Int
    let splitsRows: Bool
    /// First unit of every block, and `hidden` at the end.
    let blockStarts: [Int]
    /// First block of every worker, and the block count at the end; only when units are shared out.
    let workerStarts: [Int]

    private var forwardBase: UnsafeMutablePointer<Float>?
    private var backwardBase: UnsafeMutablePointer<Float>?

    /// Above this, a worker's part of the weights is what decides: 1 MiB, half of a server core's L2.
    private static let largestSharedBytes = 1 << 20

    /// - Parameter threads: pool that the loops will run on.
    public convenience init(hidden: Int, gateCount: Int, threads: ThreadPool) {
        self.init(
            hidden: hidden, gateCount: gateCount, instructionSet: KernelVariant.current.instructionSet, threads: threads
        )
    }

    package init(hidden: Int, gateCount: Int, instructionSet: InstructionSet, threads: ThreadPool) {
        require(hidden >= 1, "RecurrentWeights: hidden \(hidden); expected at least 1")
        require([1, 3, 4].contains(gateCount), "RecurrentWeights: \(gateCount) gates; expected 1, 3 or 4")
        self.hidden = hidden
        self.gateCount = gateCount
        self.instructionSet = instructionSet
        workerCount = threads.threadCount
        splitsRows = workerCount == 1 || gateCount * hidden * hidden * 4 <= RecurrentWeights.largestSharedBytes

        let vectorsPerBlock = ck_gemm_sliver_vectors(instructionSet.rawValue)
        let vectorWidth = ck_gemm_sliver_width(instructionSet.rawValue) / vectorsPerBlock
        let vectors = (hidden + vectorWidth - 1) / vectorWidth
        let parts = splitsRows ? 1 : min(workerCount, vectors)
        var blockStarts: [Int] = []
        var workerStarts: [Int] = []
        for part in 0..<parts {
            let (first, end) = (vectors * part / parts, vectors * (part + 1) / parts)
            workerStarts.append(blockStarts.count)
            let blocks = (end - first + vectorsPerBlock - 1) / vectorsPerBlock
            for block in 0..<blocks { blockStarts.append((first + (end - first) * block / blocks) * vectorWidth) }
        }
        // Workers beyond the number of vectors have no blocks.
        while workerStarts.count <= workerCount { workerStarts.append(blockStarts.count) }
        self.blockStarts = blockStarts + [hidden]
        self.workerStarts = workerStarts
    }

    deinit {
        free(forwardBase)
        free(backwardBase)
    }

    /// Bytes held by the packed copies made so far.
    public var byteCount: Int { ((forwardBase == nil ? 0 : 1) + (backwardBase == nil ? 0 : 1)) * floatCount * 4 }

    /// Packs `weight` `[gates·H, H]`, gate-major as in torch, for forward passes.
    public func packForForward(_ weight: UnsafePointer<Float>, threads: ThreadPool) {
        let base = forwardBase ?? allocate()
        forwardBase = base
        threads.run(blockCount * gateCount) { task, _ in
            let (block, gate) = (task / gateCount, task % gateCount)
            ck_gemm_pack(
                instructionSet.rawValue, 1, weight + (gate * hidden + blockStarts[block]) * hidden, hidden, hidden,
                unitCount(block), 0, unitCount(block), base + forwardOffset(block: block, gate: gate))
        }
    }

    /// Packs `weight` `[gates·H, H]`, gate-major as in torch, for backward passes.
    public func packForBackward(_ weight: UnsafePointer<Float>, threads: ThreadPool) {
        let base = backwardBase ?? allocate()
        backwardBase = base
        threads.run(blockCount) { block, _ in
            ck_gemm_pack(
                instructionSet.rawValue, 0, weight + blockStarts[block], hidden, gateCount * hidden, unitCount(block),
                0,
                unitCount(block), base + backwardOffset(block))
        }
    }

    var blockCount: Int { blockStarts.count - 1 }

    func unitCount(_ block: Int) -> Int { blockStarts[block + 1] - blockStarts[block] }

    func forward(block: Int, gate: Int) -> UnsafePointer<Float> {
        guard let forwardBase else { fatalError("RecurrentWeights: packForForward was not called") }
        return UnsafePointer(forwardBase + forwardOffset(block: block, gate: gate))
    }

    func backward(block: Int) -> UnsafePointer<Float> {
        guard let backwardBase else { fatalError("RecurrentWeights: packForBackward was not called") }
        return UnsafePointer(backwardBase + backwardOffset(block))
    }

    private func forwardOffset(block: Int, gate: Int) -> Int {
        let width = ck_gemm_packed_floats(instructionSet.rawValue, 1, unitCount(block))
        return (gateCount * blockStarts[block] + gate * width) * hidden
    }

    private func backwardOffset(_ block: Int) -> Int { blockStarts[block] * gateCount * hidden }

    private var floatCount: Int { ck_gemm_packed_floats(instructionSet.rawValue, gateCount * hidden, hidden) }

    private func allocate() -> UnsafeMutablePointer<Float> {
        let byteCount = (floatCount * 4 + 63) / 64 * 64
        let memory = aligned_alloc(64, byteCount)
        require(memory != nil, "RecurrentWeights: out of memory for \(byteCount) bytes")
        return memory!.bindMemory(to: Float.self, capacity: byteCount / 4)
    }
}
