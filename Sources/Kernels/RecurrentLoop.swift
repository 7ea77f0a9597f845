import CKernels

/// The time loop that the recurrent kernels share: who does what, and in which order, with the products and the state that
/// goes from step to step. A kernel adds its cell.
///
/// Legend: B batch, T time, G gates, N heads of S units, H = N·S hidden units.
struct RecurrentLoop {
    /// Geometry of every layer.
    private let weights: RecurrentWeights
    /// The weights of the micro-layers that make one step, applied one after the other.
    private let layers: [RecurrentWeights]
    private let batch: Int
    private let time: Int
    private let reversed: Bool
    private let threads: ThreadPool

    /// Some units of one head, for some sequences, at one step.
    struct Slice {
        /// Step of the recurrence, from 0, and its position in the sequence.
        let step, position: Int
        /// Micro-layer of the step.
        let layer: Int
        let firstRow, rowCount: Int
        /// First unit, counted through all heads.
        let unit: Int
        let unitCount: Int
        /// `B·T·H` of the run, for offsets.
        fileprivate let time, hidden, headSize: Int
        fileprivate let reversed: Bool

        /// Where it starts in `[B, T, width]`, whose first `H` columns are the units.
        func offset(width: Int) -> Int { (firstRow * time + position) * width + unit }

        /// Where it starts in `[B, T, N, G, S]`.
        func gateOffset(_ gateCount: Int) -> Int {
            let (head, own) = unit.quotientAndRemainder(dividingBy: headSize)
            return (firstRow * time + position) * gateCount * hidden + head * gateCount * headSize + own
        }

        /// Distance from gate to gate there.
        var gateStride: Int { headSize }

        /// Distance from sequence to sequence in `[B, T, width]`.
        func rowStride(width: Int) -> Int { time * width }

        /// Positions from this step to the next.
        var direction: Int { reversed ? -1 : 1 }

        /// Where it starts in `[B, H]`.
        var stateOffset: Int { firstRow * hidden + unit }

        /// Its state before the step: `initial [B, H]` at the first, else `states [B, T, width]`.
        func before(_ initial: UnsafePointer<Float>?, _ states: UnsafePointer<Float>, width: Int)
            -> (pointer: UnsafePointer<Float>?, rowStride: Int)
        {
            if step == 0 { return (initial.map { $0 + stateOffset }, hidden) }
            let previous = offset(width: width) + (reversed ? width : -width)
            return (states + previous, time * width)
        }
    }

    /// One worker's part of one head.
    private struct Share {
        let worker: Int
        let head: Int
        let rows: Range<Int>
        let blocks: Range<Int>
    }

    /// Below this a worker's products are no longer worth a thread.
    private static let fewestRows = 4

    init(
        _ weights: RecurrentWeights, gateCount: Int, batch: Int, time: Int, hidden: Int, reversed: Bool,
        threads: ThreadPool
    ) {
        self.init(
            layers: [weights], gateCount: gateCount, batch: batch, time: time, hidden: hidden, reversed: reversed,
            threads: threads)
    }

    /// - Parameter layers: of one kind.
    init(
        layers: [RecurrentWeights], gateCount: Int, batch: Int, time: Int, hidden: Int, reversed: Bool,
        threads: ThreadPool
    ) {
        let weights = layers[0]
        require(batch >= 1 && time >= 1, "recurrent kernel: batch \(batch), time \(time); expected at least 1")
        require(
            weights.headCount * weights.headSize == hidden && weights.gateCount == gateCount,
            "recurrent kernel: packed \(weights.gateCount) gates of \(weights.headCount) × \(weights.headSize); expected \(gateCount) of \(hidden)"
        )
        require(
            weights.workerCount == threads.threadCount,
            "recurrent kernel: weights packed for \(weights.workerCount) threads; the pool has \(threads.threadCount)")
        (self.weights, self.layers, self.batch, self.time) = (weights, layers, batch, time)
        (self.reversed, self.threads) = (reversed, threads)
    }

    var isa: Int32 { weights.instructionSet.rawValue }

    /// Where the last step of the recurrence leaves its row in `[B, T, ·]`.
    private var lastPosition: Int { reversed ? 0 : time - 1 }

    /// Row stride of the `[B, S]` and, with `gates`, `[B, G·S]` working copies: off powers of two, whole cache lines.
    private func stride(gates: Int = 1) -> Int { (gates * weights.headSize + 15) / 16 * 16 + 16 }

    /// Runs `cell` for every micro-layer of the steps `0..<T`.
    ///
    /// - Parameters:
    ///   - h0: `[B, H]`, nil = zeros.
    ///   - cell: with `product` `[rows, G, gateStride]`, the recurrent product of the slice, nil when the state is zero, and its
    ///     old and new state, `stateStride` apart from row to row; writes `new`.
    func forward(
        h0: UnsafePointer<Float>?,
        cell: (
            _ slice: Slice, _ product: UnsafePointer<Float>?, _ gateStride: Int, _ old: UnsafePointer<Float>,
            _ new: UnsafeMutablePointer<Float>, _ stateStride: Int
        ) -> Void
    ) {
        let (stride, hidden) = (stride(), weights.headCount * weights.headSize)
        let headFloats = batch * stride
        let widest = zip(weights.forwardStarts, weights.forwardStarts.dropFirst()).map { $1 - $0 }.max() ?? 0
        let productFloats = batch * weights.gateCount * widest
        let scratch = threads.gemmScratch(
            worker: 0, floats: 2 * weights.headCount * headFloats + threads.threadCount * productFloats)
        let products = scratch + 2 * weights.headCount * headFloats
        for head in 0..<weights.headCount {
            copyState(
                h0.map { $0 + head * weights.headSize }, stride: hidden, to: scratch + 2 * head * headFloats,
                stride: stride)
        }
        run { share, step in
            let even = scratch + 2 * share.head * headFloats
            let (old, new) = step % 2 == 0 ? (even, even + headFloats) : (even + headFloats, even)
            let product = products + share.worker * productFloats
            let isZero = step == 0 && h0 == nil
            forEach(weights.isWhole ? 0..<1 : share.blocks, step: step) { block, next in
                let start = weights.forwardStarts[block]
                let units = weights.forwardStarts[block + 1] - start
                if !isZero {
                    multiplyForward(
                        layers[step % layers.count], old, stride, share, block: block, next: next, product, width: units
                    )
                }
                let row = share.rows.lowerBound * stride + start
                cell(
                    slice(share, step: step, unit: start, units), isZero ? nil : UnsafePointer(product), units,
                    old + row,
                    new + row, stride)
            }
        } second: { _, _ in
        }
    }

    /// Runs `cell` for every micro-layer from the last step to the first, and after each the product that takes the gradient
    /// back through its weights.
    ///
    /// - Parameters:
    ///   - dhN: `[B, H]`, gradient of the last state, nil = zeros.
    ///   - dh0: `[B, H]`, written if given. May be `dhN`.
    ///   - keepsRest: the cell leaves a part of `dL/dh[t-1]` in `dh`, to which the product is added.
    ///   - cell: with `dh`, the part of `dL/dh[t]` that came back through step t+1, `stateStride` apart from row to row, and
    ///     room for a copy of the gradient of the recurrent product, `[rows, copyStride]`, gates `S` apart.
    func backward(
        dhN: UnsafePointer<Float>?, dh0: UnsafeMutablePointer<Float>?, keepsRest: Bool,
        cell: (
            _ slice: Slice, _ dh: UnsafeMutablePointer<Float>, _ stateStride: Int,
            _ copy: UnsafeMutablePointer<Float>, _ gateStride: Int, _ copyStride: Int
        ) -> Void
    ) {
        let (stride, copyStride) = (stride(), stride(gates: weights.gateCount))
        let (size, hidden) = (weights.headSize, weights.headCount * weights.headSize)
        // Gradients of an even and an odd step: one is still read while the next is written.
        let copyFloats = batch * copyStride
        let headFloats = batch * stride + 2 * copyFloats
        let scratch = threads.gemmScratch(worker: 0, floats: weights.headCount * headFloats)
        for head in 0..<weights.headCount {
            copyState(
                dhN.map { $0 + head * size }, stride: hidden, to: scratch + head * headFloats, stride: stride)
        }
        func dhAndCopy(_ share: Share, _ step: Int) -> (UnsafeMutablePointer<Float>, UnsafeMutablePointer<Float>) {
            let dh = scratch + share.head * headFloats
            return (dh, dh + batch * stride + step % 2 * copyFloats)
        }
        let last = time * layers.count - 1
        run { share, step in
            let (dh, copy) = dhAndCopy(share, step)
            forEach(weights.isWhole ? 0..<1 : share.blocks, step: step) { block, _ in
                let start = weights.forwardStarts[block]
                let row = share.rows.lowerBound
                cell(
                    slice(share, step: last - step, unit: start, weights.forwardStarts[block + 1] - start),
                    dh + row * stride + start, stride, copy + row * copyStride + start, size, copyStride)
            }
        } second: { share, step in
            if step == last && dh0 == nil { return }
            let (dh, copy) = dhAndCopy(share, step)
            let (rows, layer) = (share.rows, layers[(last - step) % layers.count])
            forEach(share.blocks, step: step) { block, next in
                ck_gemm_one_sliver(
                    isa, copy + rows.lowerBound * copyStride, copyStride,
                    layer.backward(head: share.head, block: block),
                    layer.backward(head: share.head, block: next), rows.count, weights.unitCount(block),
                    weights.gateCount * size, keepsRest ? 1 : 0,
                    dh + rows.lowerBound * stride + weights.blockStarts[block], stride)
            }
        }
        guard let dh0 else { return }
        for head in 0..<weights.headCount {
            copyState(scratch + head * headFloats, stride: stride, to: dh0 + head * size, stride: hidden)
        }
    }

    /// Copies the state after the last step out of `states` `[B, T, width]`; does nothing without a target `[B, H]`.
    func copyLast(
        of states: UnsafePointer<Float>, width: Int? = nil, to target: UnsafeMutablePointer<Float>?
    ) {
        guard let target else { return }
        let hidden = weights.headCount * weights.headSize
        let width = width ?? hidden
        for row in 0..<batch {
            (target + row * hidden).update(from: states + (row * time + lastPosition) * width, count: hidden)
        }
    }

    /// - Parameter step: counted in micro-layers.
    private func slice(_ share: Share, step: Int, unit: Int, _ units: Int) -> Slice {
        let whole = step / layers.count
        return Slice(
            step: whole, position: reversed ? time - 1 - whole : whole, layer: step % layers.count,
            firstRow: share.rows.lowerBound, rowCount: share.rows.count, unit: share.head * weights.headSize + unit,
            unitCount: units, time: time, hidden: weights.headCount * weights.headSize, headSize: weights.headSize,
            reversed: reversed)
    }

    /// Runs `first`, then, when all workers have come so far, `second`, `T` times. A worker may be in the first half of the
    /// next step while others are in the second half of this one.
    private func run(first: (Share, Int) -> Void, second: (Share, Int) -> Void) {
        if weights.splitsRows {
            // Heads that can be shared out evenly need no cut of the rows.
            let heads = weights.headCount
            let parts =
                heads % threads.threadCount == 0 ? 1 : min(threads.threadCount, batch / RecurrentLoop.fewestRows)
            let rowParts = max(1, parts)
            threads.run(heads * rowParts) { task, worker in
                let part = task % rowParts
                let share = Share(
                    worker: worker, head: task / rowParts,
                    rows: batch * part / rowParts..<batch * (part + 1) / rowParts, blocks: 0..<weights.blockCount)
                for step in 0..<time * layers.count {
                    first(share, step)
                    second(share, step)
                }
            }
        } else {
            threads.runTeam { worker, team in
                let share = Share(
                    worker: worker, head: 0, rows: 0..<batch,
                    blocks: weights.workerStarts[worker]..<weights.workerStarts[worker + 1])
                for step in 0..<time * layers.count {
                    first(share, step)
                    team.wait()
                    second(share, step)
                }
            }
        }
    }

    /// Visits blocks up and down in turn from step to step, so that the weights used last, which are still in cache, are
    /// used first.
    private func forEach(_ blocks: Range<Int>, step: Int, _ body: (_ block: Int, _ next: Int) -> Void) {
        let upwards = step % 2 == 0
        for index in 0..<blocks.count {
            let block = upwards ? blocks.lowerBound + index : blocks.upperBound - 1 - index
            let next = index == blocks.count - 1 ? block : upwards ? block + 1 : block - 1
            body(block, next)
        }
    }

    /// `product [rows, G, width] = h Whhᵀ` for one block; `h` is `[B, stride]`.
    private func multiplyForward(
        _ layer: RecurrentWeights, _ h: UnsafePointer<Float>, _ stride: Int, _ share: Share, block: Int, next: Int,
        _ product: UnsafeMutablePointer<Float>, width: Int
    ) {
        let (gateCount, rows, size) = (weights.gateCount, share.rows, weights.headSize)
        let from = h + rows.lowerBound * stride
        if weights.isWhole {
            ck_gemm_packed(
                isa, from, stride, layer.forward(head: share.head, block: 0, gate: 0), rows.count, gateCount * width,
                size, 0, nil, product, gateCount * width)
            return
        }
        for gate in 0..<gateCount {
            let following =
                gate + 1 < gateCount
                ? layer.forward(head: share.head, block: block, gate: gate + 1)
                : layer.forward(head: share.head, block: next, gate: 0)
            ck_gemm_one_sliver(
                isa, from, stride, layer.forward(head: share.head, block: block, gate: gate), following, rows.count,
                width, size, 0, product + gate * width, gateCount * width)
        }
    }

    /// Copies `[B, S]` between row strides; a missing source is zeros.
    private func copyState(
        _ source: UnsafePointer<Float>?, stride: Int, to target: UnsafeMutablePointer<Float>, stride targetStride: Int
    ) {
        for row in 0..<batch {
            if let source {
                (target + row * targetStride).update(from: source + row * stride, count: weights.headSize)
            } else {
                (target + row * targetStride).update(repeating: 0, count: weights.headSize)
            }
        }
    }
}

/// Helpers around the recurrent kernels.
public enum RecurrentSequence {
    /// The state that every step started from, for the product `dWhh = dgᵀ h_previous` after a backward pass.
    ///
    /// - Parameters:
    ///   - y: `[B, T, H]`, the states after each step.
    ///   - h0: `[B, H]`; nil = zeros.
    ///   - reversed: the run went from the last position to the first.
    ///   - previous: `[B, T, H]`, written.
    public static func previousStates(
        _ y: UnsafePointer<Float>, h0: UnsafePointer<Float>?, batch: Int, time: Int, hidden: Int, reversed: Bool,
        into previous: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        threads.run(batch) { row, _ in
            let (from, to) = (y + row * time * hidden, previous + row * time * hidden)
            let initial = to + (reversed ? (time - 1) * hidden : 0)
            if let h0 {
                initial.update(from: h0 + row * hidden, count: hidden)
            } else {
                initial.update(repeating: 0, count: hidden)
            }
            let count = (time - 1) * hidden
            if reversed {
                to.update(from: from + hidden, count: count)
            } else {
                (to + hidden).update(from: from, count: count)
            }
        }
    }
}
