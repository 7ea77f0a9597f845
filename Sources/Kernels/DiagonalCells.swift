import CKernels

/// Recurrent cells whose state stays in its channel, over whole sequences: minGRU, minLSTM, and the diagonal GRU and LSTM of
/// ParaRNN. Time runs in order; channels fill the vectors. Products over all steps are the caller's.
///
/// Legend: B batch, T time, C channels. `gates` are `[B, T, G·C]`: pre-activations before, what the backward pass needs after a
/// forward pass, gradients after a backward pass. States and their gradients are `[B, C]` and both read and written: the
/// initial state becomes the final one, the gradient of the final state becomes that of the initial one.
public struct DiagonalCells {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    public let batch, time, channels: Int
    let threads: ThreadPool

    public init(batch: Int, time: Int, channels: Int, threads: ThreadPool) {
        require(
            batch > 0 && time > 0 && channels > 0,
            "DiagonalCells: B \(batch), T \(time), C \(channels); expected all positive")
        (self.batch, self.time, self.channels, self.threads) = (batch, time, channels, threads)
    }

    /// Channels that one task takes through time: their states and the rows in use stay in L1.
    private static let panelChannels = 512

    /// Some channels of one sequence.
    private struct Panel {
        let row, first, count: Int
        let time, channels: Int

        /// Where it starts in `[B, T, G·C]`.
        func sequence(gates: Int = 1) -> Int { row * time * gates * channels + first }
        /// Where it starts in `[B, G·C]`.
        func state(gates: Int = 1) -> Int { row * gates * channels + first }
    }

    private func forEachPanel(_ body: (Panel) -> Void) {
        let size = DiagonalCells.panelChannels
        let panels = (channels + size - 1) / size
        threads.run(batch * panels) { task, _ in
            let first = task % panels * size
            body(
                Panel(
                    row: task / panels, first: first, count: min(size, channels - first), time: time, channels: channels
                ))
        }
    }

    /// `h ← (1 − z) h + z g`, `z = σ(gate)` (arXiv 2410.01201), gates hidden, z.
    ///
    /// - Parameter isPositive: g is `v + ½` (v ≥ 0) or `σ(v)` (v < 0) of the hidden part instead of v itself.
    public func minGRU(gates: Destination, isPositive: Bool, y: Destination, h: Destination) {
        forEachPanel {
            ck_min_gru(
                gates + $0.sequence(gates: 2), y + $0.sequence(), h + $0.state(), time, $0.count, channels,
                isPositive ? 1 : 0)
        }
    }

    /// - Parameters:
    ///   - y: of the forward pass. - h0: the initial state, nil = zeros. - dy: nil = zeros.
    public func minGRUBackward(
        gates: Destination, isPositive: Bool, y: Source, h0: Source?, dy: Source?, dh: Destination
    ) {
        forEachPanel { panel in
            ck_min_gru_backward(
                gates + panel.sequence(gates: 2), y + panel.sequence(), h0.map { $0 + panel.state() },
                dy.map { $0 + panel.sequence() }, dh + panel.state(), time, panel.count, channels, isPositive ? 1 : 0)
        }
    }

    /// `h ← f' h + i' g` with `f' = f / (f + i)`, `i' = i / (f + i)`, gates hidden, f, i (arXiv 2410.01201).
    ///
    /// - Parameter forget: `[B, T, C]`, f', written.
    public func minLSTM(
        gates: Destination, isPositive: Bool, forget: Destination, y: Destination, h: Destination
    ) {
        forEachPanel {
            ck_min_lstm(
                gates + $0.sequence(gates: 3), forget + $0.sequence(), y + $0.sequence(), h + $0.state(), time,
                $0.count,
                channels, isPositive ? 1 : 0)
        }
    }

    public func minLSTMBackward(
        gates: Destination, isPositive: Bool, forget: Source, y: Source, h0: Source?, dy: Source?, dh: Destination
    ) {
        forEachPanel { panel in
            ck_min_lstm_backward(
                gates + panel.sequence(gates: 3), forget + panel.sequence(), y + panel.sequence(),
                h0.map { $0 + panel.state() }, dy.map { $0 + panel.sequence() }, dh + panel.state(), time, panel.count,
                channels, isPositive ? 1 : 0)
        }
    }

    /// ParaRNN's GRU (arXiv 2510.21450), gates z, r, n: `h ← z tanh(a_n h r + u_n) + (1 − z) h`.
    ///
    /// - Parameter a: `[3, C]`.
    public func gru(gates: Destination, a: Source, y: Destination, h: Destination) {
        forEachPanel {
            ck_diagonal_gru(
                gates + $0.sequence(gates: 3), a + $0.first, y + $0.sequence(), h + $0.state(), time, $0.count, channels
            )
        }
    }

    /// - Parameter da: `[B, 3, C]`, written: each sequence's part of the gradient of `a`.
    public func gruBackward(
        gates: Destination, a: Source, y: Source, h0: Source?, dy: Source?, dh: Destination, da: Destination
    ) {
        da.update(repeating: 0, count: batch * 3 * channels)
        forEachPanel { panel in
            ck_diagonal_gru_backward(
                gates + panel.sequence(gates: 3), a + panel.first, y + panel.sequence(), h0.map { $0 + panel.state() },
                dy.map { $0 + panel.sequence() }, dh + panel.state(), da + panel.state(gates: 3), time, panel.count,
                channels)
        }
    }

    /// ParaRNN's LSTM (arXiv 2510.21450), gates f, o, g, coupled input gate, peepholes: `c ← f c + (1 − f) g`,
    /// `h ← o tanh c`.
    ///
    /// - Parameters:
    ///   - a: `[3, C]`, recurrence on h. - peepholes: `[2, C]`, on c, of f and o. - cells: `[B, T, C]`, every c, written.
    public func lstm(
        gates: Destination, a: Source, peepholes: Source, cells: Destination, y: Destination, h: Destination,
        c: Destination
    ) {
        forEachPanel {
            ck_diagonal_lstm(
                gates + $0.sequence(gates: 3), a + $0.first, peepholes + $0.first, cells + $0.sequence(),
                y + $0.sequence(), h + $0.state(), c + $0.state(), time, $0.count, channels)
        }
    }

    /// - Parameter da: `[B, 5, C]`, written: each sequence's part of the gradients of `a` and `peepholes`.
    public func lstmBackward(
        gates: Destination, a: Source, peepholes: Source, cells: Source, y: Source, h0: Source?, c0: Source?,
        dy: Source?, dh: Destination, dc: Destination, da: Destination
    ) {
        da.update(repeating: 0, count: batch * 5 * channels)
        forEachPanel { panel in
            ck_diagonal_lstm_backward(
                gates + panel.sequence(gates: 3), a + panel.first, peepholes + panel.first, cells + panel.sequence(),
                y + panel.sequence(), h0.map { $0 + panel.state() }, c0.map { $0 + panel.state() },
                dy.map { $0 + panel.sequence() }, dh + panel.state(), dc + panel.state(), da + panel.state(gates: 5),
                time, panel.count, channels)
        }
    }
}
