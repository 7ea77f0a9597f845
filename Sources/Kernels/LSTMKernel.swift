import CKernels

/// LSTM over whole sequences (torch `nn.LSTM`; gates i, f, g, o), the recurrent product and the cell fused per block of units.
///
/// Legend: B batch, T time, H hidden units, of all heads where the weights have several. The input product for all steps is the caller's, one ``GEMM`` before the pass;
/// so are `dWih`, `dx`, `dWhh` and the bias sums after the backward pass.
public enum LSTMKernel {
    /// Runs the recurrence.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 4H]`, head by head. In: `x Wihᵀ + bih + bhh`. Out: the activated gates, which ``backward`` needs.
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
        loop.forward(h0: h0) { slice, product, gateStride, _, new, stateStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            let before = slice.before(c0, cells, width: hidden)
            ck_lstm_forward(
                loop.isa, slice.rowCount, slice.unitCount, product, gateStride,
                gates + slice.gateOffset(4), slice.gateStride, slice.rowStride(width: 4 * hidden), before.pointer,
                before.rowStride, cells + at, row, y + at, row, new, stateStride)
        }
        loop.copyLast(of: y, to: hN)
        loop.copyLast(of: cells, to: cN)
    }

    /// Runs the recurrence backwards.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 4H]`, head by head. In: the activated gates. Out: `dL/d(pre-activation)`, from which the caller gets
    ///     `dWih = dgᵀ x`, `dx = dg Wih`, `dWhh = dgᵀ h_previous` (see ``RecurrentSequence``) and both bias gradients.
    ///   - weights: `Whh` after `packForBackward`.
    ///   - cells: `[B, T, H]` from ``forward``.
    ///   - c0: `[B, H]` of the forward pass, nil = zeros.
    ///   - dy: `[B, T, H]`, nil = zeros.
    ///   - dhN: `[B, H]`, gradient of the last state, nil = zeros.
    ///   - dcN: `[B, H]`, gradient of the last cell, nil = zeros.
    ///   - dh0: `[B, H]`, written if given. May be `dhN`.
    ///   - dc0: `[B, H]`, written. May be `dcN`.
    ///   - reversed: as in ``forward``.
    public static func backward(
        batch: Int, time: Int, hidden: Int, gates: UnsafeMutablePointer<Float>, weights: RecurrentWeights,
        cells: UnsafePointer<Float>, c0: UnsafePointer<Float>?, dy: UnsafePointer<Float>?, dhN: UnsafePointer<Float>?,
        dcN: UnsafePointer<Float>?, dh0: UnsafeMutablePointer<Float>?, dc0: UnsafeMutablePointer<Float>,
        reversed: Bool = false, threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 4, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        if UnsafePointer(dc0) != dcN {
            if let dcN {
                dc0.update(from: dcN, count: batch * hidden)
            } else {
                dc0.update(repeating: 0, count: batch * hidden)
            }
        }
        loop.backward(dhN: dhN, dh0: dh0, keepsRest: false) { slice, dh, stateStride, copy, gateStride, copyStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            let before = slice.before(c0, cells, width: hidden)
            ck_lstm_backward(
                loop.isa, slice.rowCount, slice.unitCount, gates + slice.gateOffset(4), slice.gateStride,
                slice.rowStride(width: 4 * hidden), cells + at, row, before.pointer, before.rowStride,
                dy.map { $0 + at },
                row, dh, stateStride, dc0 + slice.stateOffset, hidden, copy, gateStride, copyStride)
        }
    }
}
