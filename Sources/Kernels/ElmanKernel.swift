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
        let relu: Int32 = nonlinearity == .relu ? 1 : 0
        loop.forward(h0: h0) { slice, product, gateStride, _, new, stateStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            ck_elman_forward(
                loop.isa, slice.rowCount, slice.unitCount, relu, product, gateStride, preactivations + at, row, y + at,
                row, new, stateStride)
        }
        loop.copyLast(of: y, to: hN)
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
        let relu: Int32 = nonlinearity == .relu ? 1 : 0
        loop.backward(dhN: dhN, dh0: dh0, keepsRest: false) { slice, dh, stateStride, copy, _, copyStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            ck_elman_backward(
                loop.isa, slice.rowCount, slice.unitCount, relu, y + at, row, dy.map { $0 + at }, row, dh, stateStride,
                dPreactivations + at, row, copy, copyStride)
        }
    }
}
