import CKernels

/// LSTM over whole sequences (torch `nn.LSTM`; gates i, f, g, o), the recurrent product and the cell fused per block of units.
///
/// Legend: B batch, T time, H hidden units. The input product for all steps is the caller's, one ``GEMM`` before the pass;
/// so are `dWih`, `dx`, `dWhh` and the bias sums after the backward pass.
public enum LSTMKernel {
    /// Runs the recurrence.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 4H]`. In: `x Wihᵀ + bih + bhh`. Out: the activated gates, which ``backward`` needs.
    ///   - weights: `Whh` after `packForForward`.
    ///   - h0: `[B, H]`, nil = zeros.
    ///   - c0: `[B, H]`, nil = zeros.
    ///   - cells: `[B, T, H]`, `c` after each step, written; ``backward`` needs it.
    ///   - y: `[B, T, H]`, `h` after each step, written.
    ///   - hN: `[B, H]`, the last state, written if given. May be `h0`.
    ///   - cN: `[B, H]`, the last cell, written if given. May be `c0`.
    ///   - reversed: go from the last position to the first (the second half of a bidirectional layer).
    public static func forward(
        batch: Int, time: Int, hidden: Int, gates: UnsafeMutablePointer<Float>, weights: RecurrentWeights,
        h0: UnsafePointer<Float>?, c0: UnsafePointer<Float>?, cells: UnsafeMutablePointer<Float>,
        y: UnsafeMutablePointer<Float>, hN: UnsafeMutablePointer<Float>?, cN: UnsafeMutablePointer<Float>?,
        reversed: Bool = false, threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 4, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        let (stride, isa) = (loop.stride(), loop.isa)
        let scratch = threads.gemmScratch(
            worker: 0, floats: 2 * batch * stride + threads.threadCount * loop.productFloats)
        // h before an even and an odd step.
        let states = (scratch, scratch + batch * stride)
        let products = scratch + 2 * batch * stride
        loop.copyState(h0, stride: hidden, to: states.0, stride: stride)
        loop.run(threads: threads) { share, step in
            let t = loop.position(step)
            let (old, new) = step % 2 == 0 ? (states.0, states.1) : (states.1, states.0)
            let product = products + share.worker * loop.productFloats
            let row = share.rows.lowerBound
            loop.forEachBlock(share, step: step) { block, next in
                let (unit, units) = (weights.blockStarts[block], weights.unitCount(block))
                let isZero = step == 0 && h0 == nil
                if !isZero {
                    loop.multiplyForward(
                        old, stride: stride, rows: share.rows, block: block, next: next, product: product, width: units)
                }
                let at = (row * time + t) * hidden + unit
                let before =
                    step == 0
                    ? c0.map { ($0 + row * hidden + unit, hidden) }
                    : (UnsafePointer(cells + (row * time + loop.position(step - 1)) * hidden + unit), time * hidden)
                ck_lstm_forward(
                    isa, share.rows.count, units, isZero ? nil : product, units,
                    gates + (row * time + t) * 4 * hidden + unit, hidden, time * 4 * hidden, before?.0, before?.1 ?? 0,
                    cells + at, time * hidden, y + at, time * hidden, new + row * stride + unit, stride)
            }
        } second: { _, _ in
        }
        let last = loop.position(time - 1)
        if let hN { loop.copyState(y + last * hidden, stride: time * hidden, to: hN, stride: hidden) }
        if let cN { loop.copyState(cells + last * hidden, stride: time * hidden, to: cN, stride: hidden) }
    }

    /// Runs the recurrence backwards.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 4H]`. In: the activated gates. Out: `dL/d(pre-activation)`, from which the caller gets
    ///     `dWih = dgᵀ x`, `dx = dg Wih`, `dWhh = dgᵀ h_previous` (see ``RecurrentSequence``) and both bias gradients.
    ///   - weights: `Whh` after `packForBackward`.
    ///   - cells: `[B, T, H]` from ``forward``.
    ///   - c0: `[B, H]` of the forward pass, nil = zeros.
    ///   - dy: `[B, T, H]`, nil = zeros.
    ///   - dhN: `[B, H]`, gradient of the last state, nil = zeros.
    ///   - dcN: `[B, H]`, gradient of the last cell, nil = zeros.
    ///   - dh0: `[B, H]`, written if given. May be `dhN`.
    ///   - dc0: `[B, H]`, written if given. May be `dcN`.
    ///   - reversed: as in ``forward``.
    public static func backward(
        batch: Int, time: Int, hidden: Int, gates: UnsafeMutablePointer<Float>, weights: RecurrentWeights,
        cells: UnsafePointer<Float>, c0: UnsafePointer<Float>?, dy: UnsafePointer<Float>?, dhN: UnsafePointer<Float>?,
        dcN: UnsafePointer<Float>?, dh0: UnsafeMutablePointer<Float>?, dc0: UnsafeMutablePointer<Float>?,
        reversed: Bool = false, threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 4, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        let (stride, copyStride, isa) = (loop.stride(), loop.stride(gates: 4), loop.isa)
        let scratch = threads.gemmScratch(worker: 0, floats: 2 * batch * (stride + copyStride))
        let (dh, dc) = (scratch, scratch + batch * stride)
        // Gate gradients of an even and an odd step: one is still read while the next is written.
        let copies = (scratch + 2 * batch * stride, scratch + 2 * batch * stride + batch * copyStride)
        loop.copyState(dhN, stride: hidden, to: dh, stride: stride)
        loop.copyState(dcN, stride: hidden, to: dc, stride: stride)
        loop.run(threads: threads) { share, step in
            let forwardStep = time - 1 - step
            let (t, row) = (loop.position(forwardStep), share.rows.lowerBound)
            let copy = step % 2 == 0 ? copies.0 : copies.1
            loop.forEachBlock(share, step: step) { block, _ in
                let unit = weights.blockStarts[block]
                let at = (row * time + t) * hidden + unit
                let before =
                    forwardStep == 0
                    ? c0.map { ($0 + row * hidden + unit, hidden) }
                    : (cells + (row * time + loop.position(forwardStep - 1)) * hidden + unit, time * hidden)
                ck_lstm_backward(
                    isa, share.rows.count, weights.unitCount(block), gates + (row * time + t) * 4 * hidden + unit,
                    hidden,
                    time * 4 * hidden, cells + at, time * hidden, before?.0, before?.1 ?? 0, dy.map { $0 + at },
                    time * hidden, dh + row * stride + unit, stride, dc + row * stride + unit, stride,
                    copy + row * copyStride + unit, hidden, copyStride)
            }
        } second: { share, step in
            if step == time - 1 && dh0 == nil { return }
            loop.multiplyBackward(
                step % 2 == 0 ? copies.0 : copies.1, dStride: copyStride, share: share, step: step, accumulate: false,
                dh: dh, stride: stride)
        }
        if let dh0 { loop.copyState(dh, stride: stride, to: dh0, stride: hidden) }
        if let dc0 { loop.copyState(dc, stride: stride, to: dc0, stride: hidden) }
    }
}
