import CKernels

/// Causal depth-wise convolution with as many taps as a sequence is long: `y_t = Σ_j k_j ⊙ x_{t−j}`, `j` in `0..<L`.
///
/// Legend: B batch, T time, C channels, L taps; `past [B, L−1, C]` are the rows before the sequence, nil for zeros.
/// Computed directly, O(min(L, T)·T): on one AVX-512 core that beats transforms of the sequence up to about 2,000 taps.
public struct LongConvolution {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    public let batch: Int
    public let time: Int
    public let channels: Int
    public let taps: Int

    public init(batch: Int, time: Int, channels: Int, taps: Int) {
        require(
            batch >= 1 && time >= 1 && channels >= 1 && taps >= 2,
            "LongConvolution: batch \(batch), time \(time), channels \(channels), taps \(taps); expected at least 1, 1, 1, 2"
        )
        (self.batch, self.time, self.channels, self.taps) = (batch, time, channels, taps)
    }

    private static let margin = CK_LONG_CONVOLUTION_MARGIN
    private var blockCount: Int { (channels + 15) / 16 }
    private var paddedTaps: Int { (taps + 7) / 8 * 8 }

    /// - Parameters:
    ///   - x: `[B·T, C]`. - kernel: `[L, C]`. - y: `[B·T, C]`, written.
    public func forward(
        _ x: Source, past: Source?, kernel: Source, into y: Destination, threads: ThreadPool
    ) {
        let history = past == nil ? 0 : taps - 1
        threads.run(batch * blockCount) { task, worker in
            let (row, block) = (task / blockCount, task % blockCount)
            let input = threads.scratch(
                worker: worker, floats: 16 * (Self.margin + history + 2 * time + taps))
            let output = input + 16 * (Self.margin + history + time)
            let packedKernel = output + 16 * time
            let first = pack(x, past: past, row: row, block: block, into: input)
            load(kernel, rows: taps, block: block, into: packedKernel)
            ck_long_convolution(output, first, packedKernel, time, taps, history, time)
            store(output, rows: time, block: block, into: y + row * time * channels)
        }
    }

    /// - Parameters:
    ///   - dy: `[B·T, C]`.
    ///   - dx: `[B·T, C]`, written. - dPast: `[B, L−1, C]`, written if there was a past.
    ///   - dKernel: `[L, C]`, written; sequences are added in their order.
    public func backward(
        _ x: Source, past: Source?, kernel: Source, dy: Source, into dx: Destination, dPast: Destination?,
        dKernel: Destination, threads: ThreadPool
    ) {
        let history = past == nil ? 0 : taps - 1
        threads.run(blockCount) { block, worker in
            // x with its past; dy; dy and dx with time reversed; the kernel and its gradient.
            let rows = time + history
            let input = threads.scratch(
                worker: worker, floats: 16 * (3 * Self.margin + 3 * rows + time + taps + paddedTaps))
            let slopes = input + 16 * (Self.margin + rows)
            let reversed = slopes + 16 * time
            let output = reversed + 16 * (2 * Self.margin + rows)
            let packedKernel = output + 16 * rows
            let gradient = packedKernel + 16 * taps
            load(kernel, rows: taps, block: block, into: packedKernel)
            gradient.update(repeating: 0, count: 16 * paddedTaps)
            reversed.update(repeating: 0, count: 16 * (2 * Self.margin + rows))
            for row in 0..<batch {
                let first = pack(x, past: past, row: row, block: block, into: input)
                load(dy + row * time * channels, rows: time, block: block, into: slopes)
                ck_long_convolution_kernel_gradient(gradient, slopes, first, time, paddedTaps, history)
                // dx_e = Σ_j k_j dy_{e+j} is the same convolution, backwards.
                let start = reversed + 16 * Self.margin
                for t in 0..<time { (start + 16 * t).update(from: slopes + 16 * (time - 1 - t), count: 16) }
                ck_long_convolution(output, start, packedKernel, rows, taps, 0, time)
                for t in 0..<rows {
                    let source = output + 16 * (rows - 1 - t)
                    let target =
                        t < history
                        ? dPast.map { $0 + (row * history + t) * channels } : dx + (row * time + t - history) * channels
                    if let target { store(source, rows: 1, block: block, into: target) }
                }
            }
            store(gradient, rows: taps, block: block, into: dKernel)
        }
    }

    /// The rows before the next chunk: the last `L − 1` of past and x, `[B, L−1, C]`.
    public func carry(_ x: Source, past: Source?, into next: Destination) {
        let rows = taps - 1
        for b in 0..<batch {
            for r in 0..<rows {
                let target = next + (b * rows + r) * channels
                let t = time - rows + r
                if t >= 0 {
                    target.update(from: x + (b * time + t) * channels, count: channels)
                } else if let past {
                    target.update(from: past + (b * rows + rows + t) * channels, count: channels)
                } else {
                    target.update(repeating: 0, count: channels)
                }
            }
        }
    }

    /// Adds the gradient of the next chunk's past to those of x and of this chunk's past.
    public func addCarryGradient(_ dNext: Source, to dx: Destination, dPast: Destination?) {
        let rows = taps - 1
        for b in 0..<batch {
            for r in 0..<rows {
                let source = dNext + (b * rows + r) * channels
                let t = time - rows + r
                let target =
                    t >= 0 ? dx + (b * time + t) * channels : dPast.map { $0 + (b * rows + rows + t) * channels }
                if let target { ck_add(target, target, source, channels) }
            }
        }
    }

    /// Margin, past and sequence of one block; returns the sequence's first row.
    private func pack(_ x: Source, past: Source?, row: Int, block: Int, into packed: Destination) -> Destination {
        let history = past == nil ? 0 : taps - 1
        packed.update(repeating: 0, count: 16 * Self.margin)
        let first = packed + 16 * Self.margin
        if let past { load(past + row * history * channels, rows: history, block: block, into: first) }
        load(x + row * time * channels, rows: time, block: block, into: first + 16 * history)
        return first + 16 * history
    }

    private func load(_ plain: Source, rows: Int, block: Int, into packed: Destination) {
        let count = min(16, channels - 16 * block)
        if count < 16 { packed.update(repeating: 0, count: 16 * rows) }
        for r in 0..<rows { (packed + 16 * r).update(from: plain + r * channels + 16 * block, count: count) }
    }

    private func store(_ packed: Source, rows: Int, block: Int, into plain: Destination) {
        let count = min(16, channels - 16 * block)
        for r in 0..<rows { (plain + r * channels + 16 * block).update(from: packed + 16 * r, count: count) }
    }
}
