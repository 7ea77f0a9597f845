import Kernels

/// Draws a parameter's initial elements from its seed and name alone, so that every rank that owns
/// it, and every cut of the model, starts from the same bits.
public struct ParameterStream {
    private let stream: PhiloxStream
    private let threads: ThreadPool

    public init(seed: UInt64, name: String, threads: ThreadPool) {
        self.threads = threads
        // FNV-1a of the name; the seed is the key itself.
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
        stream = PhiloxStream(
            seed: seed, a: UInt32(truncatingIfNeeded: hash), b: UInt32(truncatingIfNeeded: hash >> 32), c: 1)
    }

    /// N(0, standardDeviation²).
    public func normal(into value: Tensor, standardDeviation: Float) {
        Philox.fillNormal(
            value.pointer, deviation: standardDeviation, stream: stream, count: value.count, threads: threads)
    }

    /// The same, cut off at three standard deviations.
    public func truncatedNormal(into value: Tensor, standardDeviation: Float) {
        Philox.fillTruncatedNormal(
            value.pointer, deviation: standardDeviation, stream: stream, count: value.count, threads: threads)
    }

    /// Uniform on `(-bound, bound)`.
    public func uniform(into value: Tensor, bound: Float) {
        Philox.fillUniform(
            value.pointer, low: -bound, high: bound, stream: stream, count: value.count, threads: threads)
    }
}
