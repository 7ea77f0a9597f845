import CKernels

// Legend: B samples, T tokens, C tokens of a chunk, P past tokens of the first chunk, Z key width, V value width.

/// Causal attention of one head within chunks that do not overlap, with a bias by distance (arXiv 2209.10655, sections
/// 3.2 and 3.4). Weights are recomputed in the backward. Samples and chunks run in parallel, panels of 64 rows in order.
public struct ChunkedAttention {
    /// How scores become weights: `softmax(s Z^(−½) + bias)`, or `f(s / visible keys + bias)`.
    public enum Weighting: String, Sendable, CaseIterable {
        case softmax
        /// `Φ((s − √½) / (4π)^(−½))`
        case laplace
        /// `max(s, 0)²`
        case relu2

        var kind: Int32 {
            switch self {
            case .softmax: Int32(CK_WEIGHTS_SOFTMAX)
            case .laplace: Int32(CK_WEIGHTS_LAPLACE)
            case .relu2: Int32(CK_WEIGHTS_RELU2)
            }
        }
    }

    public let batch, time, chunk, past, keyWidth, valueWidth: Int
    public let weighting: Weighting
    private static let panelRows = 64

    public init(
        batch: Int, time: Int, chunk: Int, past: Int, keyWidth: Int, valueWidth: Int, weighting: Weighting
    ) {
        require(
            batch > 0 && time > 0 && chunk > 0 && 0..<chunk ~= past,
            "ChunkedAttention: B \(batch), T \(time), C \(chunk), P \(past); expected positive, P < C")
        (self.batch, self.time, self.chunk, self.past) = (batch, time, chunk, past)
        (self.keyWidth, self.valueWidth, self.weighting) = (keyWidth, valueWidth, weighting)
    }

    /// Tokens of this call in the chunk that the past belongs to.
    public var firstCount: Int { min(chunk - past, time) }
    /// Chunks that a sample touches.
    public var segmentCount: Int { 1 + (time - firstCount + chunk - 1) / chunk }

    /// Keys and values of one chunk.
    fileprivate struct Segment {
        /// First token, tokens, and keys of the same chunk before the first token.
        let start, count, before: Int
    }

    private func segment(_ index: Int) -> Segment {
        if index == 0 { return Segment(start: 0, count: firstCount, before: past) }
        let start = firstCount + (index - 1) * chunk
        return Segment(start: start, count: min(chunk, time - start), before: 0)
    }

    /// Rows of keys or values: `rows` with a stride, and, for the first chunk when there is a past, `joined` `[B, P +
    /// firstCount, width]`, which holds the past and then the first rows.
    public struct Source {
        let rows: UnsafeMutablePointer<Float>
        let stride: Int
        let joined: UnsafeMutablePointer<Float>?

        public init(
            _ rows: UnsafeMutablePointer<Float>, stride: Int, joined: UnsafeMutablePointer<Float>?
        ) {
            (self.rows, self.stride, self.joined) = (rows, stride, joined)
        }

        fileprivate func of(
            _ segment: Segment, sample: Int, time: Int, width: Int
        ) -> (base: UnsafeMutablePointer<Float>, stride: Int) {
            if segment.before > 0, let joined {
                return (joined + sample * (segment.before + segment.count) * width, width)
            }
            return (rows + (sample * time + segment.start) * stride, stride)
        }
    }

    private func scale(row: Int) -> Float {
        weighting == .softmax ? Float(1 / Double(keyWidth).squareRoot()) : 1 / Float(row + 1)
    }

    /// - Parameters:
    ///   - q: `[B·T, Z]` with row stride `queryStride`.
    ///   - bias: `[2C − 1]`; key `j` meets query `i` of its chunk with `bias[C − 1 + j − i]`.
    ///   - output: `[B·T, V]`.
    public func forward(
        q: UnsafePointer<Float>, queryStride: Int, keys: Source, values: Source, bias: UnsafePointer<Float>,
        output: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        threads.run(batch * segmentCount) { task, worker in
            let b = task / segmentCount, segment = segment(task % segmentCount)
            let k = keys.of(segment, sample: b, time: time, width: keyWidth)
            let v = values.of(segment, sample: b, time: time, width: valueWidth)
            let scores = threads.scratch(worker: worker, floats: Self.panelRows * chunk)
            for first in stride(from: 0, to: segment.count, by: Self.panelRows) {
                let rows = min(Self.panelRows, segment.count - first), seen = segment.before + first + rows
                let row = b * time + segment.start + first
                GEMM.multiplyOnWorker(
                    q + row * queryStride, lda: queryStride, k.base, transposeB: true, ldb: k.stride, m: rows, n: seen,
                    k: keyWidth, accumulate: false, into: scores, ldc: seen, worker: worker, threads: threads)
                for r in 0..<rows {
                    let i = segment.before + first + r
                    ck_biased_weights(
                        scores + r * seen, scores + r * seen, bias + (chunk - 1 - i), scale(row: i), weighting.kind,
                        i + 1, seen)
                }
                GEMM.multiplyOnWorker(
                    scores, lda: seen, v.base, ldb: v.stride, m: rows, n: valueWidth, k: seen, accumulate: false,
                    into: output + row * valueWidth, ldc: valueWidth, worker: worker, threads: threads)
            }
        }
    }

    /// Gradients of `forward`. Those of keys and values are added to what their sources hold.
    /// - Parameters:
    ///   - dq: `[B·T, Z]` with row stride `queryStride`, overwritten.
    ///   - dBias: `[B·segmentCount, 2C − 1]`, overwritten; its sum over rows is the gradient of the bias.
    public func backward(
        dOutput: UnsafePointer<Float>, q: UnsafePointer<Float>, queryStride: Int, keys: Source, values: Source,
        bias: UnsafePointer<Float>, dq: UnsafeMutablePointer<Float>, dKeys: Source, dValues: Source,
        dBias: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        threads.run(batch * segmentCount) { task, worker in
            let b = task / segmentCount, segment = segment(task % segmentCount)
            let k = keys.of(segment, sample: b, time: time, width: keyWidth)
            let v = values.of(segment, sample: b, time: time, width: valueWidth)
            let dk = dKeys.of(segment, sample: b, time: time, width: keyWidth)
            let dv = dValues.of(segment, sample: b, time: time, width: valueWidth)
            let scores = threads.scratch(worker: worker, floats: 3 * Self.panelRows * chunk)
            let weights = scores + Self.panelRows * chunk, slopes = weights + Self.panelRows * chunk
            let lags = dBias + task * (2 * chunk - 1)
            lags.update(repeating: 0, count: 2 * chunk - 1)
            for first in stride(from: 0, to: segment.count, by: Self.panelRows) {
                let rows = min(Self.panelRows, segment.count - first), seen = segment.before + first + rows
                let row = b * time + segment.start + first
                let (queries, upstream) = (q + row * queryStride, dOutput + row * valueWidth)
                func multiply(
                    _ a: UnsafePointer<Float>, transposeA: Bool = false, lda: Int, _ b: UnsafePointer<Float>,
                    transposeB: Bool = false, ldb: Int, m: Int, n: Int, k: Int, accumulate: Bool = false,
                    into c: UnsafeMutablePointer<Float>, ldc: Int
                ) {
                    GEMM.multiplyOnWorker(
                        a, transposeA: transposeA, lda: lda, b, transposeB: transposeB, ldb: ldb, m: m, n: n, k: k,
                        accumulate: accumulate, into: c, ldc: ldc, worker: worker, threads: threads)
                }
                multiply(
                    queries, lda: queryStride, k.base, transposeB: true, ldb: k.stride, m: rows, n: seen, k: keyWidth,
                    into: scores, ldc: seen)
                multiply(
                    upstream, lda: valueWidth, v.base, transposeB: true, ldb: v.stride, m: rows, n: seen,
                    k: valueWidth, into: slopes, ldc: seen)
                for r in 0..<rows {
                    let i = segment.before + first + r
                    ck_biased_weights_backward(
                        weights + r * seen, slopes + r * seen, lags + (chunk - 1 - i), scores + r * seen,
                        bias + (chunk - 1 - i), scale(row: i), weighting.kind, i + 1, seen)
                }
                multiply(
                    slopes, lda: seen, k.base, ldb: k.stride, m: rows, n: keyWidth, k: seen,
                    into: dq + row * queryStride, ldc: queryStride)
                multiply(
                    slopes, transposeA: true, lda: seen, queries, ldb: queryStride, m: seen, n: keyWidth, k: rows,
                    accumulate: true, into: dk.base, ldc: dk.stride)
                multiply(
                    weights, transposeA: true, lda: seen, upstream, ldb: valueWidth, m: seen, n: valueWidth, k: rows,
                    accumulate: true, into: dv.base, ldc: dv.stride)
            }
        }
    }
}
