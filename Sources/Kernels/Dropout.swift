import CKernels

/// Dropout whose mask is a function of (seed, stream, step, sample, element) and of nothing else.
public enum Dropout {
    /// `y = x·mask / (1 − probability)`. The backward is the same call on the gradient. `y` may be `x`.
    /// - Parameters:
    ///   - x: `[samples, count]`: for each sample a contiguous run of its elements.
    ///   - firstSample: index of the first sample in the whole batch, so that micro-batches do not show.
    ///   - firstElement: index of the first element within its sample, so that chunks of a sequence do not show.
    ///   - stream: which dropout of the model; `step`: which training step.
    public static func apply(
        _ x: UnsafePointer<Float>, into y: UnsafeMutablePointer<Float>, samples: Int, count: Int, firstSample: Int,
        firstElement: Int, probability: Float, seed: UInt64, stream: UInt32, step: UInt32, threads: ThreadPool
    ) {
        require(
            probability >= 0 && probability < 1, "Dropout: probability \(probability); expected 0 ≤ p < 1")
        Philox.check(firstElement, count)
        if samples <= 0 || count <= 0 { return }
        let threshold = UInt32(Double(probability) * 4_294_967_296), factor = 1 / (1 - probability)
        let panels = (count + ThreadPool.panelElements - 1) / ThreadPool.panelElements
        threads.run(samples * panels) { index, _ in
            let sample = index / panels, start = index % panels * ThreadPool.panelElements
            let length = min(ThreadPool.panelElements, count - start)
            var key = PhiloxStream(seed: seed, a: UInt32(firstSample + sample), b: stream, c: step).key
            ck_dropout(
                y + sample * count + start, x + sample * count + start, UInt64(firstElement + start), length, &key,
                threshold, factor)
        }
    }
}
