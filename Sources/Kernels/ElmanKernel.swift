import CKernels

/// Elman network over whole sequences (torch `nn.RNN`), `h = φ(pre + h_previous Whhᵀ)`.
///
/// Legend: B batch, T time, H hidden units.
public enum ElmanKernel {
    /// `φ` above.
    public enum Nonlinearity: Sendable {
        case tanh
        case relu
    }

    /// Runs the recurrence.
    ///
    /// - Parameters:
    ///   - preactivations: `[B, T, H]`, `x Wihᵀ + bih + bhh`.
    ///   - weights: `Whh` after `packForForward`.
    ///   - h0: `[B, H]`, nil = zeros.
    ///   - y: `[B, T, H]`, `h` after each step, written. May be `preactivations`.
    ///   - hN: `[B, H]`, the last state, written if given. May be `h0`.
    ///   - reversed: go from the last position to the first.
    public static func forward(
        batch: Int, time: Int, hidden: Int, nonlinearity: Nonlinearity, preactivations: UnsafePointer<Float>,
        weights: RecurrentWeights, h0: UnsafePointer<Float>?, y: UnsafeMutablePointer<Float>,
        hN: UnsafeMutablePointer<Float>?, reversed: Bool = false, threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 1, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        let (stride, isa, relu) = (loop.stride(), loop.isa, nonlinearity == .relu ? Int32(1) : 0)
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
                ck_elman_forward(
                    isa, share.rows.count, units, relu, isZero ? nil : product, units, preactivations + at,
                    time * hidden,
                    y + at, time * hidden, new + row * stride + unit, stride)
            }
        } second: { _, _ in
        }
        let last = loop.position(time - 1)
        if let hN { loop.copyState(y + last * hidden, stride: time * hidden, to: hN, stride: hidden) }
    }

    /// Runs the recurrence backwards.
    ///
    /// - Parameters:
    ///   - weights: `Whh` after `packForBackward`.
    ///   - y: `[B, T, H]` from ``forward``.
    ///   - dy: `[B, T, H]`, nil = zeros.
    ///   - dhN: `[B, H]`, gradient of the last state, nil = zeros.
    ///   - dPreactivations: `[B, T, H]`, written. May be `dy`.
    ///   - dh0: `[B, H]`, written if given. May be `dhN`.
    ///   - reversed: as in ``forward``.
    public static func backward(
        batch: Int, time: Int, hidden: Int, nonlinearity: Nonlinearity, weights: RecurrentWeights,
        y: UnsafePointer<Float>, dy: UnsafePointer<Float>?, dhN: UnsafePointer<Float>?,
        dPreactivations: UnsafeMutablePointer<Float>, dh0: UnsafeMutablePointer<Float>?, reversed: Bool = false,
        threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 1, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        let (stride, isa, relu) = (loop.stride(), loop.isa, nonlinearity == .relu ? Int32(1) : 0)
        let dh = threads.gemmScratch(worker: 0, floats: 3 * batch * stride)
        let copies = (dh + batch * stride, dh + 2 * batch * stride)
        loop.copyState(dhN, stride: hidden, to: dh, stride: stride)
        loop.run(threads: threads) { share, step in
            let (t, row) = (loop.position(time - 1 - step), share.rows.lowerBound)
            let copy = step % 2 == 0 ? copies.0 : copies.1
            loop.forEachBlock(share, step: step) { block, _ in
                let unit = weights.blockStarts[block]
                let at = (row * time + t) * hidden + unit
                ck_elman_backward(
                    isa, share.rows.count, weights.unitCount(block), relu, y + at, time * hidden, dy.map { $0 + at },
                    time * hidden, dh + row * stride + unit, stride, dPreactivations + at, time * hidden,
                    copy + row * stride + unit, stride)
            }
        } second: { share, step in
            if step == time - 1 && dh0 == nil { return }
            loop.multiplyBackward(
                step % 2 == 0 ? copies.0 : copies.1, dStride: stride, share: share, step: step, accumulate: false,
                dh: dh,
                stride: stride)
        }
        if let dh0 { loop.copyState(dh, stride: stride, to: dh0, stride: hidden) }
    }
}
