import CKernels

/// Sizes of a depth-wise convolution over `[B, T, C]` with `W` taps.
public struct ShortConvolutionShape: Sendable, Hashable {
    public let batch, time, channels, taps: Int
    /// Tokens by which the last tap is ahead; 0: causal.
    public let ahead: Int

    public init(batch: Int, time: Int, channels: Int, taps: Int, ahead: Int = 0) {
        require(
            batch > 0 && time > 0 && channels > 0 && taps > 0 && 0..<taps ~= ahead,
            "ShortConvolution: B \(batch), T \(time), C \(channels), W \(taps), \(ahead) ahead; expected positive, less than W"
        )
        (self.batch, self.time, self.channels, self.taps, self.ahead) = (batch, time, channels, taps, ahead)
    }

    /// Rows of a sequence that precede the chunk, `W − 1`.
    public var pastRows: Int { taps - 1 }

    fileprivate func withKernelShape(_ body: (UnsafePointer<ck_short_convolution_shape>) -> Void) {
        withUnsafePointer(
            to: ck_short_convolution_shape(time: time, channels: channels, taps: taps, ahead: ahead), body)
    }
}

/// Depth-wise convolution with carry, `y_t = bias + Σ_k w_k ⊙ x_{t+ahead−W+1+k}`, optionally followed by silu.
///
/// Weights are tap-major here, `[W, C]`: neighbouring channels lie side by side. The past is `[B, W−1, C]`; nil: zeros.
/// A token's result does not depend on how the sequence is cut.
public enum ShortConvolutionKernel {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// `y [B, T, C]`; must not overlap `x`.
    public static func forward(
        _ x: Source, past: Source?, weight: Source, bias: Source?, silu: Bool, into y: Destination,
        shape: ShortConvolutionShape, threads: ThreadPool
    ) {
        forEachPanel(of: shape, threads) { b, first, count, kernel in
            let sequence = b * shape.time * shape.channels
            ck_short_convolution(
                y + sequence, x + sequence, past.map { $0 + b * shape.pastRows * shape.channels }, weight, bias,
                kernel, first, count, silu ? 1 : 0)
        }
    }

    /// `dPre = dy ⊙ silu′`, the gradient in front of silu, `[B, T, C]`; may be `dy`.
    public static func slope(
        _ dy: Source, x: Source, past: Source?, weight: Source, bias: Source?, into dPre: Destination,
        shape: ShortConvolutionShape, threads: ThreadPool
    ) {
        forEachPanel(of: shape, threads) { b, first, count, kernel in
            let sequence = b * shape.time * shape.channels
            ck_short_convolution_slope(
                dPre + sequence, dy + sequence, x + sequence, past.map { $0 + b * shape.pastRows * shape.channels },
                weight, bias, kernel, first, count)
        }
    }

    /// `dx [B, T, C]` and `dPast [B, W−1, C]` (or nil), overwritten.
    public static func inputGradient(
        _ dPre: Source, weight: Source, into dx: Destination, dPast: Destination?, shape: ShortConvolutionShape,
        threads: ThreadPool
    ) {
        forEachPanel(of: shape, threads) { b, first, count, kernel in
            let sequence = b * shape.time * shape.channels
            ck_short_convolution_input_gradient(
                dx + sequence + first * shape.channels, dPre + sequence, weight, kernel, first, count)
            if let dPast, first == 0, shape.pastRows > 0 {
                ck_short_convolution_input_gradient(
                    dPast + b * shape.pastRows * shape.channels, dPre + sequence, weight, kernel, -shape.pastRows,
                    shape.pastRows)
            }
        }
    }

    /// `dWeight [W, C] += Σ_{b,t} dPre_t ⊙ x_{t−W+1+k}`.
    public static func weightGradient(
        _ dPre: Source, x: Source, past: Source?, addingTo dWeight: Destination, shape: ShortConvolutionShape,
        threads: ThreadPool
    ) {
        shape.withKernelShape { kernel in
            threads.forEachColumnPanel(of: shape.channels, rows: shape.batch * shape.time) { column, count in
                for b in 0..<shape.batch {
                    let sequence = b * shape.time * shape.channels + column
                    ck_short_convolution_weight_gradient(
                        dWeight + column, dPre + sequence, x + sequence,
                        past.map { $0 + b * shape.pastRows * shape.channels + column }, kernel, count)
                }
            }
        }
    }

    /// The last `W − 1` rows of past and chunk together, `[B, W−1, C]`: the past of the next chunk.
    public static func carry(
        _ x: Source, past: Source?, into next: Destination, shape: ShortConvolutionShape
    ) {
        let (rows, width) = (shape.pastRows, shape.channels)
        let kept = max(0, rows - shape.time)
        for b in 0..<shape.batch {
            let target = next + b * rows * width
            if let past {
                target.update(from: past + (b * rows + rows - kept) * width, count: kept * width)
            } else {
                target.update(repeating: 0, count: kept * width)
            }
            (target + kept * width).update(
                from: x + (b * shape.time + shape.time - (rows - kept)) * width, count: (rows - kept) * width)
        }
    }

    /// Gradient of ``carry(_:past:into:shape:)``, added to `dx` and `dPast`.
    public static func carryGradient(
        _ dNext: Source, addingTo dx: Destination, dPast: Destination?, shape: ShortConvolutionShape
    ) {
        let (rows, width) = (shape.pastRows, shape.channels)
        let kept = max(0, rows - shape.time)
        for b in 0..<shape.batch {
            let source = dNext + b * rows * width
            if let dPast {
                let target = dPast + (b * rows + rows - kept) * width
                ck_add(target, target, source, kept * width)
            }
            let target = dx + (b * shape.time + shape.time - (rows - kept)) * width
            ck_add(target, target, source + kept * width, (rows - kept) * width)
        }
    }

    /// Panels of tokens of one sequence each.
    private static func forEachPanel(
        of shape: ShortConvolutionShape, _ threads: ThreadPool,
        _ body: (_ sample: Int, _ first: Int, _ count: Int, _ kernel: UnsafePointer<ck_short_convolution_shape>) -> Void
    ) {
        let size = min(shape.time, max(16, ThreadPool.panelElements / shape.channels))
        let panels = (shape.time + size - 1) / size
        shape.withKernelShape { kernel in
            threads.run(shape.batch * panels) { index, _ in
                let first = index % panels * size
                body(index / panels, first, min(size, shape.time - first), kernel)
            }
        }
    }
}
