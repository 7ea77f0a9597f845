/// Where the blocks of a block-diagonal weight lie: `G` gates of `N` heads, each a matrix from `I` inputs to `O` outputs.
public struct BlockLayout: Sendable {
    public let gateCount, headCount, outputCount, inputCount: Int
    /// Floats from one gate to the next, from one head to the next, and between the rows of a block.
    let gateStride, headStride, rowStride: Int
    /// Whether a block is stored as `[I, O]` rather than `[O, I]`.
    let isTransposed: Bool
    /// Whether all heads see the whole input: a dense weight.
    let sharesInput: Bool
    /// Gate `g` of a kernel is gate `gateOrder[g]` of the weight.
    let gateOrder: [Int]

    /// `[G, N, O, I]`; with one head, torch's `[G·O, I]`.
    ///
    /// - Parameters:
    ///   - sharesInput: every head sees the same `I` inputs.
    ///   - gateOrder: for a weight that lists its gates in another order than the kernel.
    public static func gateMajor(
        gates: Int, heads: Int, outputs: Int, inputs: Int, sharesInput: Bool = false, gateOrder: [Int]? = nil
    ) -> Self {
        BlockLayout(
            gateCount: gates, headCount: heads, outputCount: outputs, inputCount: inputs,
            gateStride: heads * outputs * inputs, headStride: outputs * inputs, rowStride: inputs, isTransposed: false,
            sharesInput: sharesInput, gateOrder: gateOrder ?? Array(0..<gates))
    }

    /// `[N, I, G, O]`.
    public static func headMajor(gates: Int, heads: Int, outputs: Int, inputs: Int) -> Self {
        BlockLayout(
            gateCount: gates, headCount: heads, outputCount: outputs, inputCount: inputs, gateStride: outputs,
            headStride: inputs * gates * outputs, rowStride: gates * outputs, isTransposed: true,
            sharesInput: false, gateOrder: Array(0..<gates))
    }

    /// Start of a block.
    func offset(gate: Int, head: Int) -> Int { gateOrder[gate] * gateStride + head * headStride }

    /// Whether one head's gates are the `[G·O, I]` that torch has.
    var isPlain: Bool { headCount == 1 && !isTransposed && gateOrder == Array(0..<gateCount) }

    /// Columns of the input.
    public var inputWidth: Int { sharesInput ? inputCount : headCount * inputCount }
}

/// How gates lie in a row: head by head, in each head gate by gate; with one head that is gate by gate.
public struct GateColumns: Sendable {
    public let gateCount, width, headCount: Int

    /// - Parameter width: units of a gate, over all heads.
    public init(gateCount: Int, width: Int, headCount: Int) {
        require(width % headCount == 0, "GateColumns: \(headCount) heads of \(width) units; expected a divisor")
        (self.gateCount, self.width, self.headCount) = (gateCount, width, headCount)
    }

    /// Floats of a row.
    public var stride: Int { gateCount * width }

    /// Column of a unit, counted through all heads.
    func column(gate: Int, unit: Int) -> Int {
        let size = width / headCount
        return (unit / size * gateCount + gate) * size + unit % size
    }
}

/// Products with weights by heads: head `n` of every gate sees columns `n·I ..< (n + 1)·I` of the input and makes units
/// `n·O ..< (n + 1)·O` of that gate.
///
/// Gates that lie side by side and see the same input are made by one ``GEMM``, of a copy of their weights where those do not
/// follow each other in memory: short products would spend their time on packing.
///
/// Legend: R rows, G gates, N heads, I inputs and O outputs of a head.
public struct BlockProduct {
    private let layout: BlockLayout
    private let weightCount: Int
    private let firstLayoutGate: Int
    private let columns: GateColumns
    private let groups: [Group]

    /// What one product makes.
    private struct Group {
        /// Column of the input, and of the gates.
        let input, column: Int
        let gates, heads: Range<Int>
    }

    /// - Parameters:
    ///   - weightCount: weights of this layout, whose gates follow each other.
    ///   - layoutGates: some gates of a single weight, in place of all.
    ///   - firstGate: the gate of `columns` that the first of them is.
    public init(
        _ layout: BlockLayout, weightCount: Int = 1, layoutGates: Range<Int>? = nil, firstGate: Int = 0,
        into columns: GateColumns
    ) {
        (self.layout, self.weightCount, self.columns) = (layout, weightCount, columns)
        firstLayoutGate = layoutGates?.lowerBound ?? 0
        let gateCount = layoutGates?.count ?? weightCount * layout.gateCount
        require(
            layout.headCount * layout.outputCount == columns.width && firstGate + gateCount <= columns.gateCount
                && (columns.headCount == 1 || columns.headCount == layout.headCount),
            "BlockProduct: gates \(firstGate)..<\(firstGate + gateCount) of \(layout.headCount) × \(layout.outputCount); expected a part of \(columns)"
        )
        let (gates, heads) = (0..<gateCount, 0..<layout.headCount)
        func group(_ gates: Range<Int>, _ heads: Range<Int>) -> Group {
            Group(
                input: layout.sharesInput ? 0 : heads.lowerBound * layout.inputCount,
                column: columns.column(
                    gate: firstGate + gates.lowerBound, unit: heads.lowerBound * layout.outputCount), gates: gates,
                heads: heads)
        }
        if layout.headCount == 1 || layout.sharesInput && gateCount == columns.gateCount {
            groups = [group(gates, heads)]
        } else if columns.headCount > 1 {
            groups = heads.map { group(gates, $0..<$0 + 1) }
        } else {
            groups = gates.flatMap { gate in heads.map { group(gate..<gate + 1, $0..<$0 + 1) } }
        }
    }

    /// `y = x Wᵀ + bias`.
    ///
    /// - Parameters:
    ///   - x: `[R, layout.inputWidth]`. - bias: a row of gates. - y: `[R, columns.stride]`.
    public func multiply(
        _ x: UnsafePointer<Float>, rows: Int, _ weights: [UnsafePointer<Float>], bias: UnsafePointer<Float>?,
        into y: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        for group in groups {
            GEMM.multiply(
                x + group.input, lda: layout.inputWidth, matrix(group, weights, threads), transposeB: true,
                ldb: layout.inputCount, m: rows, n: rowCount(group), k: layout.inputCount, accumulate: false,
                bias: bias.map { $0 + group.column }, into: y + group.column, ldc: columns.stride, threads: threads)
        }
    }

    /// `dx (+)= dy W`.
    public func inputGradient(
        _ dy: UnsafePointer<Float>, rows: Int, _ weights: [UnsafePointer<Float>], accumulate: Bool,
        into dx: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        for group in groups {
            GEMM.multiply(
                dy + group.column, lda: columns.stride, matrix(group, weights, threads), ldb: layout.inputCount,
                m: rows,
                n: layout.inputCount, k: rowCount(group), accumulate: accumulate || group.gates.lowerBound > 0,
                into: dx + group.input, ldc: layout.inputWidth, threads: threads)
        }
    }

    /// `dW += dyᵀ x`.
    public func weightGradient(
        _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, rows: Int,
        addingTo dWeights: [UnsafeMutablePointer<Float>], threads: ThreadPool
    ) {
        for group in groups {
            let count = rowCount(group)
            let target =
                isDirect ? dWeights[0] + directOffset : threads.scratch(worker: 0, floats: count * layout.inputCount)
            GEMM.multiply(
                dy + group.column, transposeA: true, lda: columns.stride, x + group.input, ldb: layout.inputWidth,
                m: count, n: layout.inputCount, k: rows, accumulate: isDirect, into: target, ldc: layout.inputCount,
                threads: threads)
            if isDirect { continue }
            forEachRow(of: group) { row, weight, offset, stride in
                let (from, to) = (target + row * layout.inputCount, dWeights[weight] + offset)
                for i in 0..<layout.inputCount { to[i * stride] += from[i] }
            }
        }
    }

    /// Whether the rows of the one group follow each other in the weight.
    private var isDirect: Bool { layout.isPlain && weightCount == 1 }
    private var directOffset: Int { layout.offset(gate: firstLayoutGate, head: 0) }

    private func rowCount(_ group: Group) -> Int { group.gates.count * group.heads.count * layout.outputCount }

    /// `[rows of the group, I]`: the weight itself, or a copy in scratch memory.
    private func matrix(
        _ group: Group, _ weights: [UnsafePointer<Float>], _ threads: ThreadPool
    ) -> UnsafePointer<Float> {
        if isDirect { return weights[0] + directOffset }
        let copy = threads.scratch(worker: 0, floats: rowCount(group) * layout.inputCount)
        forEachRow(of: group) { row, weight, offset, stride in
            let (from, to) = (weights[weight] + offset, copy + row * layout.inputCount)
            if stride == 1 {
                to.update(from: from, count: layout.inputCount)
            } else {
                for i in 0..<layout.inputCount { to[i] = from[i * stride] }
            }
        }
        return UnsafePointer(copy)
    }

    /// Where the inputs of each row of a group lie: element `offset` of a weight and every `stride`th after it.
    private func forEachRow(of group: Group, _ body: (_ row: Int, _ weight: Int, _ offset: Int, _ stride: Int) -> Void)
    {
        var row = 0
        for head in group.heads {
            for gate in group.gates {
                let (weight, own) = gate.quotientAndRemainder(dividingBy: layout.gateCount)
                let block = layout.offset(gate: firstLayoutGate + own, head: head)
                for output in 0..<layout.outputCount {
                    body(
                        row, weight, block + output * (layout.isTransposed ? 1 : layout.rowStride),
                        layout.isTransposed ? layout.rowStride : 1)
                    row += 1
                }
            }
        }
    }
}

/// A bias of the first gates of a row, whose pieces lie as the blocks of a layout with one input.
public enum BlockBias {
    /// `sum += bias`; `sum` is a row of gates.
    public static func add(
        _ bias: UnsafePointer<Float>, _ layout: BlockLayout, to sum: UnsafeMutablePointer<Float>, _ columns: GateColumns
    ) {
        forEachPiece(layout, columns) { offset, column in
            for i in 0..<layout.outputCount { sum[column + i] += bias[offset + i] }
        }
    }

    /// The way back, `dBias += sum`.
    public static func addGradient(
        _ sum: UnsafePointer<Float>, _ columns: GateColumns, _ layout: BlockLayout,
        to dBias: UnsafeMutablePointer<Float>
    ) {
        forEachPiece(layout, columns) { offset, column in
            for i in 0..<layout.outputCount { dBias[offset + i] += sum[column + i] }
        }
    }

    private static func forEachPiece(
        _ layout: BlockLayout, _ columns: GateColumns, _ body: (_ offset: Int, _ column: Int) -> Void
    ) {
        for gate in 0..<layout.gateCount {
            for head in 0..<layout.headCount {
                body(
                    layout.offset(gate: gate, head: head), columns.column(gate: gate, unit: head * layout.outputCount))
            }
        }
    }
}
