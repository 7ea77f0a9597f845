import CKernels

/// sLSTM over whole sequences (arXiv 2405.04517; gates i, f, z, o): exponential gates, a normaliser n, and a stabiliser m that
/// keeps both in range. The recurrent product and the cell are fused per head.
///
///     m_t = max(ĩ, logσ(f̃) + m_{t-1}), or ĩ while n is 0;  i' = e^{ĩ − m_t};  f' = e^{logσ(f̃) + m_{t-1} − m_t}
///     c_t = f' c_{t-1} + i' tanh z̃;  n_t = f' n_{t-1} + i';  h_t = σ(õ) c_t / n_t
///
/// Legend: B batch, T time, H hidden units of all heads. Products over all steps are the caller's, as for ``LSTMKernel``.
public enum SLSTMKernel {
    /// The state between two steps, `[B, H]` each.
    public struct State<Pointer> {
        let h, c, n, m: Pointer

        /// - Parameter pointers: h, c, n, m.
        public init(_ pointers: [Pointer]) {
            require(pointers.count == 4, "SLSTMKernel: \(pointers.count) states; expected h, c, n, m")
            (h, c, n, m) = (pointers[0], pointers[1], pointers[2], pointers[3])
        }
    }

    /// Runs the recurrence.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 4H]`, head by head. In: the pre-activations without the recurrent product. Out: i', f', tanh z̃, σ(õ).
    ///   - weights: the recurrent weight after `packForForward`.
    ///   - initial: nil = zeros.
    ///   - cells: `[B, T, 3H]`, written: c, n and 1 − σ(f̃) of each step.
    ///   - y: `[B, T, H]`, `h` after each step, written.
    ///   - final: the state after the last step, written.
    ///   - reversed: go from the last position to the first.
    public static func forward(
        batch: Int, time: Int, hidden: Int, gates: UnsafeMutablePointer<Float>, weights: RecurrentWeights,
        initial: State<UnsafePointer<Float>>?, cells: UnsafeMutablePointer<Float>, y: UnsafeMutablePointer<Float>,
        final: State<UnsafeMutablePointer<Float>>, reversed: Bool = false, threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 4, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        if let initial {
            final.m.update(from: initial.m, count: batch * hidden)
        } else {
            final.m.update(repeating: 0, count: batch * hidden)
        }
        loop.forward(h0: initial?.h) { slice, product, gateStride, _, new, stateStride in
            let c = slice.before(initial?.c, cells, width: 3 * hidden)
            let n = slice.before(initial?.n, cells + hidden, width: 3 * hidden)
            ck_slstm_forward(
                loop.isa, slice.rowCount, slice.unitCount, product, gateStride,
                gates + slice.gateOffset(4), slice.gateStride, slice.rowStride(width: 4 * hidden),
                slice.direction * 4 * hidden, c.pointer, n.pointer, c.rowStride, final.m + slice.stateOffset, hidden,
                cells + slice.offset(width: 3 * hidden), hidden, slice.rowStride(width: 3 * hidden),
                y + slice.offset(width: hidden), slice.rowStride(width: hidden), new, stateStride)
        }
        loop.copyLast(of: y, to: final.h)
        loop.copyLast(of: cells, width: 3 * hidden, to: final.c)
        loop.copyLast(of: cells + hidden, width: 3 * hidden, to: final.n)
    }

    /// Runs the recurrence backwards. The stabiliser is a constant: h does not depend on it.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 4H]`, head by head. In: from ``forward``. Out: `dL/d(pre-activation)`.
    ///   - weights: the recurrent weight after `packForBackward`.
    ///   - cells: `[B, T, 3H]` from ``forward``.
    ///   - c0, n0: `[B, H]` of the forward pass, nil = zeros.
    ///   - dy: `[B, T, H]`, nil = zeros.
    ///   - dhN, dcN, dnN: `[B, H]`, gradients of the final state, nil = zeros.
    ///   - dh0, dc0, dn0: `[B, H]`, written.
    ///   - reversed: as in ``forward``.
    public static func backward(
        batch: Int, time: Int, hidden: Int, gates: UnsafeMutablePointer<Float>, weights: RecurrentWeights,
        cells: UnsafePointer<Float>, c0: UnsafePointer<Float>?, n0: UnsafePointer<Float>?, dy: UnsafePointer<Float>?,
        dhN: UnsafePointer<Float>?, dcN: UnsafePointer<Float>?, dnN: UnsafePointer<Float>?,
        dh0: UnsafeMutablePointer<Float>, dc0: UnsafeMutablePointer<Float>, dn0: UnsafeMutablePointer<Float>,
        reversed: Bool = false, threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 4, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        for (target, source) in [(dc0, dcN), (dn0, dnN)] {
            if let source {
                target.update(from: source, count: batch * hidden)
            } else {
                target.update(repeating: 0, count: batch * hidden)
            }
        }
        loop.backward(dhN: dhN, dh0: dh0, keepsRest: false) { slice, dh, stateStride, copy, gateStride, copyStride in
            let c = slice.before(c0, cells, width: 3 * hidden)
            let n = slice.before(n0, cells + hidden, width: 3 * hidden)
            ck_slstm_backward(
                loop.isa, slice.rowCount, slice.unitCount, gates + slice.gateOffset(4), slice.gateStride,
                slice.rowStride(width: 4 * hidden), -slice.direction * 4 * hidden,
                cells + slice.offset(width: 3 * hidden), hidden, slice.rowStride(width: 3 * hidden), c.pointer,
                n.pointer, c.rowStride, dy.map { $0 + slice.offset(width: hidden) }, slice.rowStride(width: hidden), dh,
                stateStride, dc0 + slice.stateOffset, dn0 + slice.stateOffset, hidden, copy, gateStride, copyStride)
        }
    }
}
