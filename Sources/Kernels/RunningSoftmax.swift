import CKernels

// Legend: B samples, T tokens, H heads, d head width.

/// Softmax attention of one fixed query per head, as a recurrence: `o_t` is the mean of the values so far, weighted by
/// `e^{s}`. Constant memory, 6 FLOPs a channel and token (arXiv 2405.13956, section 3.1). Heads run in parallel, tokens in
/// order.
public struct RunningSoftmax {
    public let batch, time, headCount, headSize: Int

    public init(batch: Int, time: Int, headCount: Int, headSize: Int) {
        require(
            batch > 0 && time > 0 && headCount > 0 && headSize > 0,
            "RunningSoftmax: B \(batch), T \(time), H \(headCount), d \(headSize); expected all positive")
        (self.batch, self.time, self.headCount, self.headSize) = (batch, time, headCount, headSize)
    }

    /// What the backward needs, `[B, H, T]` each: `e^{s_t − m_t}`, `e^{m_{t−1} − m_t}` and `u_t`.
    public struct Kept {
        let weights, shrinks, sums: UnsafeMutablePointer<Float>

        public init(
            weights: UnsafeMutablePointer<Float>, shrinks: UnsafeMutablePointer<Float>,
            sums: UnsafeMutablePointer<Float>
        ) {
            (self.weights, self.shrinks, self.sums) = (weights, shrinks, sums)
        }
    }

    /// - Parameters:
    ///   - scores: `[B, T, H]`. - v, output: `[B, T, H, d]`.
    ///   - m, u: `[B, H]`, w: `[B, H, d]`: state before the first token (−∞, 0, 0 at a start), replaced by the last.
    public func forward(
        scores: UnsafePointer<Float>, v: UnsafePointer<Float>, output: UnsafeMutablePointer<Float>,
        m: UnsafeMutablePointer<Float>, u: UnsafeMutablePointer<Float>, w: UnsafeMutablePointer<Float>, kept: Kept,
        threads: ThreadPool
    ) {
        threads.run(batch * headCount) { index, _ in
            let (score, value, row) = offsets(index)
            ck_running_softmax(
                output + value, m + index, u + index, w + index * headSize, kept.weights + row, kept.shrinks + row,
                kept.sums + row, scores + score, headCount, v + value, headCount * headSize, time, headSize)
        }
    }

    /// - Parameters:
    ///   - dScores, dv: laid out as the inputs, overwritten.
    ///   - du, dw: gradients of the final state, replaced by those of the initial one. `m` carries none.
    public func backward(
        dOutput: UnsafePointer<Float>, output: UnsafePointer<Float>, v: UnsafePointer<Float>, kept: Kept,
        dScores: UnsafeMutablePointer<Float>, dv: UnsafeMutablePointer<Float>, du: UnsafeMutablePointer<Float>,
        dw: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        threads.run(batch * headCount) { index, _ in
            let (score, value, row) = offsets(index)
            ck_running_softmax_backward(
                dScores + score, dv + value, du + index, dw + index * headSize, dOutput + value, output + value,
                kept.weights + row, kept.shrinks + row, kept.sums + row, headCount, v + value, headCount * headSize,
                time, headSize)
        }
    }

    private func offsets(_ index: Int) -> (score: Int, value: Int, row: Int) {
        let (b, head) = (index / headCount, index % headCount)
        return (b * time * headCount + head, (b * time * headCount + head) * headSize, index * time)
    }
}
