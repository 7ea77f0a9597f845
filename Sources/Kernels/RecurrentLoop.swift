import CKernels

/// The time loop that the recurrent kernels share: who does what, and in which order.
///
/// Legend: B batch, T time, H hidden units, G gates.
struct RecurrentLoop {
    let weights: RecurrentWeights
    let batch: Int
    let time: Int
    let reversed: Bool

    /// One worker's part.
    struct Share {
        let worker: Int
        let rows: Range<Int>
        let blocks: Range<Int>
    }

    /// Below this a worker's products are no longer worth a thread.
    private static let fewestRows = 4

    init(
        _ weights: RecurrentWeights, gateCount: Int, batch: Int, time: Int, hidden: Int, reversed: Bool,
        threads: ThreadPool
    ) {
        require(batch >= 1 && time >= 1, "recurrent kernel: batch \(batch), time \(time); expected at least 1")
        require(
            weights.hidden == hidden && weights.gateCount == gateCount,
            "recurrent kernel: packed \(weights.gateCount) gates of \(weights.hidden); expected \(gateCount) of \(hidden)"
        )
        require(
            weights.workerCount == threads.threadCount,
            "recurrent kernel: weights packed for \(weights.workerCount) threads; the pool has \(threads.threadCount)")
        (self.weights, self.batch, self.time, self.reversed) = (weights, batch, time, reversed)
    }

    /// Row stride of the `[B, H]` and, with `gates`, `[B, G·H]` working copies: off powers of two, whole cache lines.
    func stride(gates: Int = 1) -> Int { (gates * weights.hidden + 15) / 16 * 16 + 16 }

    /// Floats of one worker's recurrent product, `[rows, G, block]`.
    var productFloats: Int { batch * weights.gateCount * ck_gemm_sliver_width(weights.instructionSet.rawValue) }

    var isa: Int32 { weights.instructionSet.rawValue }

    /// Position in the sequence that is visited at `step`, counted from the beginning of the run.
    func position(_ step: Int) -> Int { reversed ? time - 1 - step : step }

    /// Runs `first`, then, when all workers have come so far, `second`, for the steps `0..<T`. A worker may be in the first
    /// half of the next step while others are in the second half of this one.
    func run(threads: ThreadPool, first: (Share, Int) -> Void, second: (Share, Int) -> Void) {
        if weights.splitsRows {
            let parts = max(1, min(threads.threadCount, batch / RecurrentLoop.fewestRows))
            threads.run(parts) { part, worker in
                let share = Share(
                    worker: worker, rows: batch * part / parts..<batch * (part + 1) / parts,
                    blocks: 0..<weights.blockCount)
                for step in 0..<time {
                    first(share, step)
                    second(share, step)
                }
            }
        } else {
            threads.runTeam { worker, team in
                let share = Share(
                    worker: worker, rows: 0..<batch,
                    blocks: weights.workerStarts[worker]..<weights.workerStarts[worker + 1])
                for step in 0..<time {
                    first(share, step)
                    team.wait()
                    second(share, step)
                }
            }
        }
    }

    /// Visits the blocks of a share, up and down in turn from step to step, so that the weights used last, which are
    /// still in cache, are used first.
    func forEachBlock(_ share: Share, step: Int, _ body: (_ block: Int, _ next: Int) -> Void) {
        let (blocks, upwards) = (share.blocks, step % 2 == 0)
        for index in 0..<blocks.count {
            let block = upwards ? blocks.lowerBound + index : blocks.upperBound - 1 - index
            let next = index == blocks.count - 1 ? block : upwards ? block + 1 : block - 1
            body(block, next)
        }
    }

    /// `product [rows, G, width] = h Whhᵀ` for one block; `h` is `[B, stride]`.
    func multiplyForward(
        _ h: UnsafePointer<Float>, stride: Int, rows: Range<Int>, block: Int, next: Int,
        product: UnsafeMutablePointer<Float>,
        width: Int
    ) {
        let gateCount = weights.gateCount
        for gate in 0..<gateCount {
            let following =
                gate + 1 < gateCount
                ? weights.forward(block: block, gate: gate + 1) : weights.forward(block: next, gate: 0)
            ck_gemm_one_sliver(
                isa, h + rows.lowerBound * stride, stride, weights.forward(block: block, gate: gate), following,
                rows.count,
                weights.unitCount(block), weights.hidden, 0, product + gate * width, gateCount * width)
        }
    }

    /// `dh [B, ·] (+)= d Whh` for the units of a share; `d` is `[B, G·H]` with row stride `dStride`.
    func multiplyBackward(
        _ d: UnsafePointer<Float>, dStride: Int, share: Share, step: Int, accumulate: Bool,
        dh: UnsafeMutablePointer<Float>,
        stride: Int
    ) {
        let rows = share.rows
        forEachBlock(share, step: step) { block, next in
            ck_gemm_one_sliver(
                isa, d + rows.lowerBound * dStride, dStride, weights.backward(block: block),
                weights.backward(block: next),
                rows.count, weights.unitCount(block), weights.gateCount * weights.hidden, accumulate ? 1 : 0,
                dh + rows.lowerBound * stride + weights.blockStarts[block], stride)
        }
    }

    /// Copies `[B, H]` between row strides; a missing source is zeros.
    func copyState(
        _ source: UnsafePointer<Float>?, stride: Int, to target: UnsafeMutablePointer<Float>, stride targetStride: Int
    ) {
        for row in 0..<batch {
            if let source {
                (target + row * targetStride).update(from: source + row * stride, count: weights.hidden)
            } else {
                (target + row * targetStride).update(repeating: 0, count: weights.hidden)
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
