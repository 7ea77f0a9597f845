import CKernels

/// Recurrent highway network over whole sequences (arXiv 1607.03474): `depth` micro-layers a step, each
/// `s ← h t + s c` with h = tanh, t, c = σ of `s Rᵀ + b` (and of the input in the first); c = 1 − t when coupled.
///
/// Legend: B batch, T time, H hidden units, L micro-layers, k gates (h, t, and c unless coupled).
public struct HighwayKernel {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    private let batch, time, hidden: Int
    private let layers: [RecurrentWeights]
    private let loop: RecurrentLoop
    private let gateCount: Int

    /// - Parameter layers: the packed weights `R` of every micro-layer.
    public init(
        batch: Int, time: Int, hidden: Int, isCoupled: Bool, layers: [RecurrentWeights], reversed: Bool = false,
        threads: ThreadPool
    ) {
        gateCount = isCoupled ? 2 : 3
        (self.batch, self.time, self.hidden, self.layers) = (batch, time, hidden, layers)
        loop = RecurrentLoop(
            layers: layers, gateCount: gateCount, batch: batch, time: time, hidden: hidden, reversed: reversed,
            threads: threads)
    }

    private var isCoupled: Int32 { gateCount == 2 ? 1 : 0 }

    /// - Parameters:
    ///   - gates: L times `[B, T, k·H]`. The first in: input part and bias; all out: activated gates.
    ///   - bias: `[L, k·H]`, of which the first row is not read.
    ///   - s0: `[B, H]`, nil = zeros.
    ///   - states: L times `[B, T, H]`, s after each micro-layer, written; the last is the output.
    ///   - final: `[B, H]`, written.
    public func forward(gates: [Destination], bias: Source, s0: Source?, states: [Destination], final: Destination) {
        let width = gateCount * hidden
        loop.forward(h0: s0) { slice, product, gateStride, old, new, stateStride in
            let at = gates[slice.layer] + slice.offset(width: width)
            let row = slice.rowStride(width: width)
            let isFirst = slice.layer == 0
            ck_highway_forward(
                loop.isa, slice.rowCount, slice.unitCount, isCoupled, product, gateStride,
                isFirst ? Source(at) : bias + slice.layer * width + slice.unit, isFirst ? row : 0, at, hidden, row, old,
                stateStride, states[slice.layer] + slice.offset(width: hidden), slice.rowStride(width: hidden), new,
                stateStride)
        }
        loop.copyLast(of: states[layers.count - 1], to: final)
    }

    /// - Parameters:
    ///   - gates: of the forward pass. Out: gradients of the pre-activations.
    ///   - states, s0: of the forward pass. - dy: `[B, T, H]`, nil = zeros. - dFinal: `[B, H]`, nil = zeros.
    ///   - ds0: `[B, H]`, written.
    public func backward(
        gates: [Destination], states: [Destination], s0: Source?, dy: Source?, dFinal: Source?, ds0: Destination
    ) {
        let width = gateCount * hidden
        loop.backward(dhN: dFinal, dh0: ds0, keepsRest: true) { slice, dh, stateStride, copy, gateStride, copyStride in
            let (at, row) = (slice.offset(width: hidden), slice.rowStride(width: hidden))
            let before =
                slice.layer > 0
                ? (pointer: Source(states[slice.layer - 1] + at), rowStride: row)
                : slice.before(s0, states[layers.count - 1], width: hidden)
            ck_highway_backward(
                loop.isa, slice.rowCount, slice.unitCount, isCoupled, gates[slice.layer] + slice.offset(width: width),
                hidden, slice.rowStride(width: width), before.pointer, before.rowStride,
                slice.layer == layers.count - 1 ? dy.map { $0 + at } : nil, row, dh, stateStride, copy, gateStride,
                copyStride)
        }
    }
}
