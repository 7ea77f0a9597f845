import CKernels

/// GRU over whole sequences (torch `nn.GRU`; gates r, z, n), the recurrent product and the cell fused per block of units.
///
/// Legend: B batch, T time, H hidden units. The reset gate multiplies `q = h Whnᵀ + bhn`, so that bias stays apart.
public enum GRUKernel {
    /// Runs the recurrence.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 3H]`, head by head. In: `x Wihᵀ + bih`, with `bhh` added to the r and z parts. Out: the activated gates.
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
        loop.forward(h0: h0) { slice, product, gateStride, old, new, stateStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            ck_gru_forward(
                loop.isa, slice.rowCount, slice.unitCount, product, gateStride, biasN.map { $0 + slice.unit },
                gates + slice.gateOffset(3), slice.gateStride, slice.rowStride(width: 3 * hidden), q + at, row, old,
                stateStride, y + at, row, new, stateStride)
        }
        loop.copyLast(of: y, to: hN)
    }

    /// Runs the recurrence backwards.
    ///
    /// - Parameters:
    ///   - gates: `[B, T, 3H]`, head by head. In: the activated gates. Out: `dgi`, the gradient of the input part, from which the caller
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
        loop.backward(dhN: dhN, dh0: dh0, keepsRest: true) { slice, dh, stateStride, copy, gateStride, copyStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            let before = slice.before(h0, y, width: hidden)
            ck_gru_backward(
                loop.isa, slice.rowCount, slice.unitCount, gates + slice.gateOffset(3), slice.gateStride,
                slice.rowStride(width: 3 * hidden), q + at, row, before.pointer, before.rowStride, dy.map { $0 + at },
                row, dh, stateStride, copy, gateStride, copyStride)
        }
    }
}
