import CKernels

/// Elman network over whole sequences (torch `nn.RNN`), `h = φ(pre + h_previous Whhᵀ)`.
///
/// Legend: B batch, T time, H hidden units.
public enum ElmanKernel {
    /// `φ` above.
    public enum Nonlinearity: Sendable, Equatable {
        case tanh
        case relu
        /// tanh for the first so many units, nothing for the others.
        case tanhThenLinear(Int)

        /// Runs `body` on the units `first..<first + count` in pieces of one kind, numbered as in `ck_recurrent.h`.
        func forEachKind(first: Int, count: Int, _ body: (_ skipped: Int, _ count: Int, _ kind: Int32) -> Void) {
            switch self {
            case .tanh: body(0, count, 0)
            case .relu: body(0, count, 1)
            case .tanhThenLinear(let limit):
                let tanhCount = max(0, min(count, limit - first))
                if tanhCount > 0 { body(0, tanhCount, 0) }
                if tanhCount < count { body(tanhCount, count - tanhCount, 2) }
            }
        }
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
        loop.forward(h0: h0) { slice, product, gateStride, _, new, stateStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            nonlinearity.forEachKind(first: slice.unit, count: slice.unitCount) { skipped, count, kind in
                ck_elman_forward(
                    loop.isa, slice.rowCount, count, kind, product.map { $0 + skipped }, gateStride,
                    preactivations + at + skipped, row, y + at + skipped, row, new + skipped, stateStride)
            }
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
        loop.backward(dhN: dhN, dh0: dh0, keepsRest: false) { slice, dh, stateStride, copy, _, copyStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            nonlinearity.forEachKind(first: slice.unit, count: slice.unitCount) { skipped, count, kind in
                ck_elman_backward(
                    loop.isa, slice.rowCount, count, kind, y + at + skipped, row, dy.map { $0 + at + skipped }, row,
                    dh + skipped, stateStride, dPreactivations + at + skipped, row, copy + skipped, copyStride)
            }
        }
    }
}
