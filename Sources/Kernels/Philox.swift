import CKernels

/// A stream of random numbers that is a function of its name: element `e` is the same whoever asks for it, and when.
///
/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, 2011). Word `e mod 4` of the
/// counter `(e/4, a, b, c)` under the key `seed`. An element index must stay below 2³⁴.
public struct PhiloxStream: Sendable, Hashable {
    public var seed: UInt64
    /// The upper counter words, by convention sample, stream (purpose, layer, use) and step.
    public var a: UInt32
    public var b: UInt32
    public var c: UInt32

    public init(seed: UInt64, a: UInt32 = 0, b: UInt32 = 0, c: UInt32 = 0) {
        (self.seed, self.a, self.b, self.c) = (seed, a, b, c)
    }

    var key: ck_philox_key {
        ck_philox_key(
            key: (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32)), counter: (a, b, c))
    }
}

public enum Philox {
    /// Raw 32-bit words `first..<first + count`.
    public static func words(_ stream: PhiloxStream, first: Int = 0, count: Int) -> [UInt32] {
        check(first, count)
        var key = stream.key
        return [UInt32](unsafeUninitializedCapacity: count) { buffer, initialized in
            if let out = buffer.baseAddress { ck_philox_words(out, UInt64(first), count, &key) }
            initialized = count
        }
    }

    /// Uniform in `[low, high)`, from 24 random bits each.
    public static func fillUniform(
        _ y: UnsafeMutablePointer<Float>, low: Float = 0, high: Float = 1, stream: PhiloxStream, first: Int = 0,
        count: Int, threads: ThreadPool
    ) {
        check(first, count)
        let key = stream.key
        threads.forEachPanel(of: count) { start, length in
            withUnsafePointer(to: key) { ck_philox_uniform(y + start, UInt64(first + start), length, $0) }
            // Rounding may reach `high`; its predecessor keeps the interval half open.
            for i in start..<start + length { y[i] = min(low + (high - low) * y[i], high.nextDown) }
        }
    }

    /// Normal with the given mean and standard deviation, by Box-Muller.
    public static func fillNormal(
        _ y: UnsafeMutablePointer<Float>, mean: Float = 0, deviation: Float = 1, stream: PhiloxStream, first: Int = 0,
        count: Int, threads: ThreadPool
    ) {
        check(first, count)
        let key = stream.key
        threads.forEachPanel(of: count) { start, length in
            withUnsafePointer(to: key) { ck_philox_normal(y + start, UInt64(first + start), length, $0) }
            for i in start..<start + length { y[i] = mean + deviation * y[i] }
        }
    }

    /// Normal with mean 0; an element more than three deviations out is drawn again, from streams of its own.
    public static func fillTruncatedNormal(
        _ y: UnsafeMutablePointer<Float>, deviation: Float, stream: PhiloxStream, first: Int = 0, count: Int,
        threads: ThreadPool
    ) {
        fillNormal(y, deviation: deviation, stream: stream, first: first, count: count, threads: threads)
        for i in 0..<count where abs(y[i]) > 3 * deviation {
            var again = stream
            repeat {
                again.seed = again.seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                fillNormal(
                    y + i, deviation: deviation, stream: again, first: first + i, count: 1, threads: threads)
            } while abs(y[i]) > 3 * deviation
        }
    }

    static func check(_ first: Int, _ count: Int) {
        require(
            first >= 0 && count >= 0 && first + count <= 1 << 34,
            "Philox: elements \(first)..<\(first + count); expected within 0..<2^34")
    }
}
