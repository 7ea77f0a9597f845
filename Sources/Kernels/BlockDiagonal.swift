/// Where the blocks of a block-diagonal weight lie: `G` gates of `N` heads, each a matrix from `I` inputs to `O` outputs.
public struct BlockLayout: Sendable {
    public let gateCount, headCount, outputCount, inputCount: Int
    /// Floats from one gate to the next, from one head to the next, and between the rows of a block.
    let gateStride, headStride, rowStride: Int
    /// Whether a block is stored as `[I, O]` rather than `[O, I]`.
    let isTransposed: Bool
    /// Gate `g` of a kernel is gate `gateOrder[g]` of the weight.
    let gateOrder: [Int]

    /// `[G, N, O, I]`; with one head, torch's `[G·O, I]`.
    ///
    /// - Parameter gateOrder: for a weight that lists its gates in another order than the kernel.
    public static func gateMajor(gates: Int, heads: Int, outputs: Int, inputs: Int, gateOrder: [Int]? = nil) -> Self {
        BlockLayout(
            gateCount: gates, headCount: heads, outputCount: outputs, inputCount: inputs,
            gateStride: heads * outputs * inputs, headStride: outputs * inputs, rowStride: inputs, isTransposed: false,
            gateOrder: gateOrder ?? Array(0..<gates))
    }

    /// `[N, I, G, O]`.
    public static func headMajor(gates: Int, heads: Int, outputs: Int, inputs: Int) -> Self {
        BlockLayout(
            gateCount: gates, headCount: heads, outputCount: outputs, inputCount: inputs, gateStride: outputs,
            headStride: inputs * gates * outputs, rowStride: gates * outputs, isTransposed: true,
            gateOrder: Array(0..<gates))
    }

    /// Start of a block.
    func offset(gate: Int, head: Int) -> Int { gateOrder[gate] * gateStride + head * headStride }

    /// Whether one head's gates are the `[G·O, I]` that torch has.
    var isPlain: Bool { headCount == 1 && !isTransposed && gateOrder == Array(0..<gateCount) }
}

/// Products with block-diagonal weights: head `n` of every gate sees columns `n·I ..< (n + 1)·I` of the input and makes
/// columns `n·O ..< (n + 1)·O` of that gate. Each is one ``GEMM`` per block, or a single one for a plain layout.
///
/// Legend: R rows, G gates, N heads, I inputs and O outputs of a head.
public enum BlockDiagonal {
    /// `y = x Wᵀ + bias`.
    ///
    /// - Parameters:
    ///   - x: `[R, N·I]`.
    ///   - bias: `[G, N·O]`.
    ///   - y: `[R, G, N·O]` with row stride `yStride`.
    public static func multiply(
        _ x: UnsafePointer<Float>, rows: Int, _ weight: UnsafePointer<Float>, _ layout: BlockLayout,
        bias: UnsafePointer<Float>?, into y: UnsafeMutablePointer<Float>, yStride: Int, threads: ThreadPool
    ) {
        let (inputs, merged) = (layout.inputCount, layout.mergedGates)
        layout.forEachBlock { gate, head in
            let column = layout.column(gate: gate, head: head)
            GEMM.multiply(
                x + head * inputs, lda: layout.headCount * inputs, weight + layout.offset(gate: gate, head: head),
                transposeB: !layout.isTransposed, ldb: layout.rowStride, m: rows, n: merged * layout.outputCount,
                k: inputs, accumulate: false, bias: bias.map { $0 + column }, into: y + column, ldc: yStride,
                threads: threads)
        }
    }

    /// `dx (+)= dy W`, shapes as in ``multiply``.
    public static func inputGradient(
        _ dy: UnsafePointer<Float>, dyStride: Int, rows: Int, _ weight: UnsafePointer<Float>, _ layout: BlockLayout,
        accumulate: Bool, into dx: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        let (inputs, merged) = (layout.inputCount, layout.mergedGates)
        layout.forEachBlock { gate, head in
            GEMM.multiply(
                dy + layout.column(gate: gate, head: head), lda: dyStride,
                weight + layout.offset(gate: gate, head: head), transposeB: layout.isTransposed, ldb: layout.rowStride,
                m: rows, n: inputs, k: merged * layout.outputCount, accumulate: accumulate || gate > 0,
                into: dx + head * inputs, ldc: layout.headCount * inputs, threads: threads)
        }
    }

    /// `dW (+)= dyᵀ x` for the gates `gates`, all of them by default.
    ///
    /// - Parameters:
    ///   - dy: `[R, ·]` with row stride `dyStride`; the first of `gates` starts at its first column.
    ///   - x: `[R, N·I]`.
    ///   - dWeight: laid out as the weight.
    public static func weightGradient(
        _ dy: UnsafePointer<Float>, dyStride: Int, _ x: UnsafePointer<Float>, rows: Int, _ layout: BlockLayout,
        gates: Range<Int>? = nil, accumulate: Bool, into dWeight: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        let gates = gates ?? 0..<layout.gateCount
        let (inputs, xStride) = (layout.inputCount, layout.headCount * layout.inputCount)
        if layout.isPlain {
            GEMM.multiply(
                dy, transposeA: true, lda: dyStride, x, ldb: xStride, m: gates.count * layout.outputCount, n: inputs,
                k: rows, accumulate: accumulate, into: dWeight + layout.offset(gate: gates.lowerBound, head: 0),
                ldc: inputs, threads: threads)
            return
        }
        for gate in gates {
            for head in 0..<layout.headCount {
                let dy = dy + layout.column(gate: gate - gates.lowerBound, head: head)
                let (x, target) = (x + head * inputs, dWeight + layout.offset(gate: gate, head: head))
                if layout.isTransposed {
                    GEMM.multiply(
                        x, transposeA: true, lda: xStride, dy, ldb: dyStride, m: inputs, n: layout.outputCount, k: rows,
                        accumulate: accumulate, into: target, ldc: layout.rowStride, threads: threads)
                } else {
                    GEMM.multiply(
                        dy, transposeA: true, lda: dyStride, x, ldb: xStride, m: layout.outputCount, n: inputs, k: rows,
                        accumulate: accumulate, into: target, ldc: layout.rowStride, threads: threads)
                }
            }
        }
    }

    /// `sum (+)= bias`, `sum [G, N·O]` gate by gate; the layout's blocks are the bias's pieces, of one input.
    public static func addBias(
        _ bias: UnsafePointer<Float>, _ layout: BlockLayout, to sum: UnsafeMutablePointer<Float>
    ) {
        for gate in 0..<layout.gateCount {
            for head in 0..<layout.headCount {
                let (from, to) = (
                    bias + layout.offset(gate: gate, head: head), sum + layout.column(gate: gate, head: head)
                )
                for i in 0..<layout.outputCount { to[i] += from[i] }
            }
        }
    }

    /// The way back: `dBias += sum`.
    public static func addBiasGradient(
        _ sum: UnsafePointer<Float>, _ layout: BlockLayout, to dBias: UnsafeMutablePointer<Float>
    ) {
        for gate in 0..<layout.gateCount {
            for head in 0..<layout.headCount {
                let (from, to) = (
                    sum + layout.column(gate: gate, head: head), dBias + layout.offset(gate: gate, head: head)
                )
                for i in 0..<layout.outputCount { to[i] += from[i] }
            }
        }
    }
}

extension BlockLayout {
    /// First column of a block in `[R, G, N·O]`.
    fileprivate func column(gate: Int, head: Int) -> Int { (gate * headCount + head) * outputCount }

    /// Gates that one product makes.
    fileprivate var mergedGates: Int { isPlain ? gateCount : 1 }

    fileprivate func forEachBlock(_ body: (_ gate: Int, _ head: Int) -> Void) {
        for gate in stride(from: 0, to: gateCount, by: mergedGates) {
            for head in 0..<headCount { body(gate, head) }
        }
    }
}
