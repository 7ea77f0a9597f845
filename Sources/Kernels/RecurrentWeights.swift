import CKernels
import Glibc

/// Recurrent weights packed for the time loops of the recurrent kernels (``LSTMKernel`` and its like), and how
/// those loops are shared out over the workers of a pool.
///
/// Made once per layer, packed once per pass (or when the weights change), used at every time step. A head is a network of its
/// own. Its units are cut in blocks of at most one sliver; a block holds all gates of its units, so a worker goes from product
/// to cell while data is in L1. A head of few units is one block, one product. Weights that fit a core's L2 several times
/// over, and heads, are shared out by batch rows, without barriers; larger ones by units, so that each worker streams only its
/// own. None of this changes a bit of the result.
public final class RecurrentWeights: @unchecked Sendable {
    /// Where the blocks lie in the weight that is packed; inputs and outputs are a head's units.
    public let layout: BlockLayout
    /// Units of a head; without heads, `H`.
    public var headSize: Int { layout.inputCount }
    public var headCount: Int { layout.headCount }
    /// Gates per unit, 1 to 4.
    public var gateCount: Int { layout.gateCount }

    let instructionSet: InstructionSet
    let workerCount: Int
    let splitsRows: Bool
    /// First unit of every block of a head, and `headSize` at the end.
    let blockStarts: [Int]
    /// The same for the loops that go forward.
    let forwardStarts: [Int]
    /// First block of every worker, and the block count at the end; only when units are shared out.
    let workerStarts: [Int]

    private var forwardBase: UnsafeMutablePointer<Float>?
    private var backwardBase: UnsafeMutablePointer<Float>?

    /// Above this, a worker's part of the weights is what decides: 1 MiB, half of a server core's L2.
    private static let largestSharedBytes = 1 << 20
    /// Up to this, calls cost more than narrow products save: 64 units of 4 gates.
    private static let largestWholeBytes = 1 << 16

    /// One head.
    ///
    /// - Parameter threads: pool that the loops will run on.
    public convenience init(hidden: Int, gateCount: Int, threads: ThreadPool) {
        self.init(.gateMajor(gates: gateCount, heads: 1, outputs: hidden, inputs: hidden), threads: threads)
    }

    public convenience init(_ layout: BlockLayout, threads: ThreadPool) {
        self.init(layout, instructionSet: KernelVariant.current.instructionSet, threads: threads)
    }

    package init(_ layout: BlockLayout, instructionSet: InstructionSet, threads: ThreadPool) {
        let (size, gateCount) = (layout.inputCount, layout.gateCount)
        require(
            size >= 1 && layout.outputCount == size,
            "RecurrentWeights: \(layout.outputCount) outputs of \(size) units; expected as many, and at least 1")
        require((1...4).contains(gateCount), "RecurrentWeights: \(gateCount) gates; expected 1 to 4")
        self.layout = layout
        self.instructionSet = instructionSet
        workerCount = threads.threadCount
        let bytes = gateCount * size * size * 4
        splitsRows = workerCount == 1 || layout.headCount > 1 || bytes <= RecurrentWeights.largestSharedBytes

        let vectorsPerBlock = ck_gemm_sliver_vectors(instructionSet.rawValue)
        let vectorWidth = ck_gemm_sliver_width(instructionSet.rawValue) / vectorsPerBlock
        let vectors = (size + vectorWidth - 1) / vectorWidth
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
        self.blockStarts = blockStarts + [size]
        self.workerStarts = workerStarts
        forwardStarts = splitsRows && bytes <= RecurrentWeights.largestWholeBytes ? [0, size] : self.blockStarts
    }

    deinit {
        free(forwardBase)
        free(backwardBase)
    }

    /// Bytes held by the packed copies made so far.
    public var byteCount: Int {
        ((forwardBase == nil ? 0 : 1) + (backwardBase == nil ? 0 : 1)) * headCount * headFloats * 4
    }

    /// Packs a weight of the given layout for forward passes.
    public func packForForward(_ weight: UnsafePointer<Float>, threads: ThreadPool) {
        let base = forwardBase ?? allocate()
        forwardBase = base
        let isa = instructionSet.rawValue
        if isWhole {
            threads.run(headCount) { head, worker in
                // All gates as the columns of one matrix.
                let rows = layout.isPlain ? weight : gatheredHead(weight, head: head, worker: worker, threads)
                ck_gemm_pack(
                    isa, 1, rows, headSize, headSize, gateCount * headSize, 0, gateCount * headSize,
                    base + head * headFloats)
            }
            return
        }
        threads.run(headCount * blockCount * gateCount) { task, _ in
            let (head, block, gate) = (
                task / (blockCount * gateCount), task / gateCount % blockCount, task % gateCount
            )
            let (start, units) = (blockStarts[block], unitCount(block))
            ck_gemm_pack(
                isa, layout.isTransposed ? 0 : 1,
                weight + layout.offset(gate: gate, head: head)
                    + start * (layout.isTransposed ? 1 : layout.rowStride), layout.rowStride, headSize, units, 0, units,
                base + head * headFloats + forwardOffset(block: block, gate: gate))
        }
    }

    /// Packs a weight of the given layout for backward passes.
    public func packForBackward(_ weight: UnsafePointer<Float>, threads: ThreadPool) {
        let base = backwardBase ?? allocate()
        backwardBase = base
        let isa = instructionSet.rawValue
        threads.run(headCount * blockCount) { task, _ in
            let (head, block) = (task / blockCount, task % blockCount)
            let (start, units) = (blockStarts[block], unitCount(block))
            let width = ck_gemm_packed_floats(isa, 1, units)
            for gate in 0..<gateCount {
                ck_gemm_pack(
                    isa, layout.isTransposed ? 1 : 0,
                    weight + layout.offset(gate: gate, head: head)
                        + start * (layout.isTransposed ? layout.rowStride : 1), layout.rowStride, headSize, units, 0,
                    units, base + head * headFloats + backwardOffset(block) + gate * headSize * width)
            }
        }
    }

    var blockCount: Int { blockStarts.count - 1 }

    /// Whether forward loops make all gates of a head in one product.
    var isWhole: Bool { forwardStarts.count == 2 }

    func unitCount(_ block: Int) -> Int { blockStarts[block + 1] - blockStarts[block] }

    /// A head's packed weights for forward passes; the start of a gate of a block unless `isWhole`.
    func forward(head: Int, block: Int, gate: Int) -> UnsafePointer<Float> {
        guard let forwardBase else { fatalError("RecurrentWeights: packForForward was not called") }
        return UnsafePointer(forwardBase + head * headFloats + forwardOffset(block: block, gate: gate))
    }

    func backward(head: Int, block: Int) -> UnsafePointer<Float> {
        guard let backwardBase else { fatalError("RecurrentWeights: packForBackward was not called") }
        return UnsafePointer(backwardBase + head * headFloats + backwardOffset(block))
    }

    private func forwardOffset(block: Int, gate: Int) -> Int {
        let width = ck_gemm_packed_floats(instructionSet.rawValue, 1, unitCount(block))
        return (gateCount * blockStarts[block] + gate * width) * headSize
    }

    private func backwardOffset(_ block: Int) -> Int { blockStarts[block] * gateCount * headSize }

    /// One head's weights, `[G·H, H]`.
    private func gatheredHead(
        _ weight: UnsafePointer<Float>, head: Int, worker: Int, _ threads: ThreadPool
    ) -> UnsafePointer<Float> {
        let rows = threads.scratch(worker: worker, floats: gateCount * headSize * headSize)
        for gate in 0..<gateCount {
            let block = weight + layout.offset(gate: gate, head: head)
            for output in 0..<headSize {
                let row = rows + (gate * headSize + output) * headSize
                if layout.isTransposed {
                    for input in 0..<headSize { row[input] = block[input * layout.rowStride + output] }
                } else {
                    row.update(from: block + output * layout.rowStride, count: headSize)
                }
            }
        }
        return UnsafePointer(rows)
    }

    /// Floats of one head's copy, whole cache lines. All gates in one matrix take no more than gate by gate.
    private var headFloats: Int {
        (ck_gemm_packed_floats(instructionSet.rawValue, gateCount * headSize, headSize) + 15) / 16 * 16
    }

    private func allocate() -> UnsafeMutablePointer<Float> {
        let byteCount = headCount * headFloats * 4
        let memory = aligned_alloc(64, byteCount)
        require(memory != nil, "RecurrentWeights: out of memory for \(byteCount) bytes")
        return memory!.bindMemory(to: Float.self, capacity: byteCount / 4)
    }
}
