import CKernels

/// GRU over whole sequences (torch `nn.GRU`; gates r, z, n), the recurrent product and the cell fused per block of units.
///
/// Legend: B batch, T time, H hidden units. The reset gate multiplies `q = h Whnᵀ + bhn`, so that bias stays apart.
public enum GRUKernel {
    /// Runs the recurrence.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 3H]`. In: `x Wihᵀ + bih`, with `bhh` added to the r and z parts. Out: the activated gates.
    ///   - biasN: `[H]`, the n part of `bhh`, nil = zeros.
    ///   - weights: `Whh` after `packForForward`.
    ///   - h0: `[B, H]`, nil = zeros.
    ///   - q: `[B, T, H]`, `h_previous Whnᵀ + bhn`, written; ``backward`` needs it.
    ///   - y: `[B, T, H]`, `h` after each step, written.
    ///   - hN: `[B, H]`, the last state, written if given. May be `h0`.
    ///   - reversed: go from the last position to the first.
    public static func forward(
        batch: Int, time: Int, hidden: Int, gates: UnsafeMutablePointer<Float>, biasN: UnsafePointer<Float>?,
        weights: RecurrentWeights, h0: UnsafePointer<Float>?, q: UnsafeMutablePointer<Float>,
        y: UnsafeMutablePointer<Float>, hN: UnsafeMutablePointer<Float>?, reversed: Bool = false, threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 3, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        let (stride, isa) = (loop.stride(), loop.isa)
        let scratch = threads.gemmScratch(
            worker: 0, floats: 2 * batch * stride + threads.threadCount * loop.productFloats)
        let states = (scratch, scratch + batch * stride)
        let products = scratch + 2 * batch * stride
        loop.copyState(h0, stride: hidden, to: states.0, stride: stride)
        loop.run(threads: threads) { share, step in
            let (t, row) = (loop.position(step), share.rows.lowerBound)
            let (old, new) = step % 2 == 0 ? (states.0, states.1) : (states.1, states.0)
            let product = products + share.worker * loop.productFloats
            loop.forEachBlock(share, step: step) { block, next in
                let (unit, units) = (weights.blockStarts[block], weights.unitCount(block))
                let isZero = step == 0 && h0 == nil
                if !isZero {
                    loop.multiplyForward(
                        old, stride: stride, rows: share.rows, block: block, next: next, product: product, width: units)
                }
                let at = (row * time + t) * hidden + unit
                ck_gru_forward(
                    isa, share.rows.count, units, isZero ? nil : product, units, biasN.map { $0 + unit },
                    gates + (row * time + t) * 3 * hidden + unit, hidden, time * 3 * hidden, q + at, time * hidden,
                    old + row * stride + unit, stride, y + at, time * hidden, new + row * stride + unit, stride)
            }
        } second: { _, _ in
        }
        let last = loop.position(time - 1)
        if let hN { loop.copyState(y + last * hidden, stride: time * hidden, to: hN, stride: hidden) }
    }

    /// Runs the recurrence backwards.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 3H]`. In: the activated gates. Out: `dgi`, the gradient of the input part, from which the caller
    ///     gets `dWih`, `dx`, `dbih`.
    ///   - q: `[B, T, H]` from ``forward``. Out: `dL/dq`. The recurrent gradient `dgh` is `dgi` with its n part replaced by
    ///     this: rows r, z of `dWhh` and `dbhh` come from `gates`, rows n from `q`.
    ///   - weights: `Whh` after `packForBackward`.
    ///   - y: `[B, T, H]` from ``forward``.
    ///   - h0: `[B, H]` of the forward pass, nil = zeros.
    ///   - dy: `[B, T, H]`, nil = zeros.
    ///   - dhN: `[B, H]`, gradient of the last state, nil = zeros.
    ///   - dh0: `[B, H]`, written if given. May be `dhN`.
    ///   - reversed: as in ``forward``.
    public static func backward(
        batch: Int, time: Int, hidden: Int, gates: UnsafeMutablePointer<Float>, q: UnsafeMutablePointer<Float>,
        weights: RecurrentWeights, y: UnsafePointer<Float>, h0: UnsafePointer<Float>?, dy: UnsafePointer<Float>?,
        dhN: UnsafePointer<Float>?, dh0: UnsafeMutablePointer<Float>?, reversed: Bool = false, threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 3, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        let (stride, copyStride, isa) = (loop.stride(), loop.stride(gates: 3), loop.isa)
        let dh = threads.gemmScratch(worker: 0, floats: batch * (stride + 2 * copyStride))
        let copies = (dh + batch * stride, dh + batch * (stride + copyStride))
        loop.copyState(dhN, stride: hidden, to: dh, stride: stride)
        loop.run(threads: threads) { share, step in
            let forwardStep = time - 1 - step
            let (t, row) = (loop.position(forwardStep), share.rows.lowerBound)
            let copy = step % 2 == 0 ? copies.0 : copies.1
            loop.forEachBlock(share, step: step) { block, _ in
                let unit = weights.blockStarts[block]
                let at = (row * time + t) * hidden + unit
                let before =
                    forwardStep == 0
                    ? h0.map { ($0 + row * hidden + unit, hidden) }
                    : (y + (row * time + loop.position(forwardStep - 1)) * hidden + unit, time * hidden)
                ck_gru_backward(
                    isa, share.rows.count, weights.unitCount(block), gates + (row * time + t) * 3 * hidden + unit,
                    hidden,
                    time * 3 * hidden, q + at, time * hidden, before?.0, before?.1 ?? 0, dy.map { $0 + at },
                    time * hidden,
                    dh + row * stride + unit, stride, copy + row * copyStride + unit, hidden, copyStride)
            }
        } second: { share, step in
            if step == time - 1 && dh0 == nil { return }
            loop.multiplyBackward(
                step % 2 == 0 ? copies.0 : copies.1, dStride: copyStride, share: share, step: step, accumulate: true,
                dh: dh,
                stride: stride)
        }
        if let dh0 { loop.copyState(dh, stride: stride, to: dh0, stride: hidden) }
    }
}
