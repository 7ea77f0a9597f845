import CKernels

/// Leaky network over whole sequences, `p = u + h_previous Whhᵀ`: `h ← φ((1 − ι) h + ι p)`, or inside `(1 − ι) h + ι φ(p)`.
///
/// Legend: B batch, T time, H hidden units; ι is a rate per unit.
public enum LeakyKernel {
    /// `φ` above.
    public enum Nonlinearity: Int32, Sendable {
        /// Slope 0.01 below zero.
        case leakyReLU = 0
        case relu, tanh, sigmoid
    }

    /// - Parameters:
    ///   - pre: `[B, T, H]`. In: u. Out: p, or φ(p) when inside.
    ///   - rate: `[H]`, ι. - h0: `[B, H]`, nil = zeros. - y: `[B, T, H]`, written. - hN: `[B, H]`, written.
    public static func forward(
        batch: Int, time: Int, hidden: Int, nonlinearity: Nonlinearity, isInside: Bool,
        pre: UnsafeMutablePointer<Float>, rate: UnsafePointer<Float>, weights: RecurrentWeights,
        h0: UnsafePointer<Float>?, y: UnsafeMutablePointer<Float>, hN: UnsafeMutablePointer<Float>,
        reversed: Bool = false,
        threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 1, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        loop.forward(h0: h0) { slice, product, gateStride, old, new, stateStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            ck_leaky_forward(
                loop.isa, slice.rowCount, slice.unitCount, isInside ? 1 : 0, nonlinearity.rawValue, product, gateStride,
                pre + at, row, rate + slice.unit, old, stateStride, y + at, row, new, stateStride)
        }
        loop.copyLast(of: y, to: hN)
    }

    /// - Parameters:
    ///   - pre: of the forward pass. Out: the gradient of p. - rateParts: `[B, T, H]`, written: sums to the gradient of ι.
    ///   - y, h0: of the forward pass. - dy: `[B, T, H]`, nil = zeros. - dhN: `[B, H]`, nil = zeros. - dh0: `[B, H]`, written.
    public static func backward(
        batch: Int, time: Int, hidden: Int, nonlinearity: Nonlinearity, isInside: Bool,
        pre: UnsafeMutablePointer<Float>, rate: UnsafePointer<Float>, rateParts: UnsafeMutablePointer<Float>,
        weights: RecurrentWeights, y: UnsafePointer<Float>, h0: UnsafePointer<Float>?, dy: UnsafePointer<Float>?,
        dhN: UnsafePointer<Float>?, dh0: UnsafeMutablePointer<Float>, reversed: Bool = false, threads: ThreadPool
    ) {
        let loop = RecurrentLoop(
            weights, gateCount: 1, batch: batch, time: time, hidden: hidden, reversed: reversed, threads: threads)
        loop.backward(dhN: dhN, dh0: dh0, keepsRest: true) { slice, dh, stateStride, copy, _, copyStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            let before = slice.before(h0, y, width: hidden)
            ck_leaky_backward(
                loop.isa, slice.rowCount, slice.unitCount, isInside ? 1 : 0, nonlinearity.rawValue, pre + at, row,
                rate + slice.unit, y + at, row, before.pointer, before.rowStride, dy.map { $0 + at }, row, dh,
                stateStride, rateParts + at, row, copy, copyStride)
        }
    }
}
