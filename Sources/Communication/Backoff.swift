import Glibc

/// How a rank waits: it spins while an answer is probably on its way, then offers its core, then sleeps.
///
/// MPI's own waits spin for ever, which takes the cores away from ranks that have work when ranks outnumber
/// cores. Spinning first keeps the latency between two awake ranks; a sleep grows with the time already
/// waited, so that it lengthens a wait by at most an eighth, and a long wait costs next to no processor time.
struct Backoff {
    private let start: UInt64
    private let spinNanoseconds: UInt64
    private let yieldNanoseconds: UInt64

    static let longestSleepNanoseconds: UInt64 = 200_000
    static let shortestSleepNanoseconds: UInt64 = 10_000

    /// - Parameter oversubscribed: whether ranks outnumber cores on this node; then the rank that this one waits
    ///   for probably needs its core.
    init(oversubscribed: Bool) {
        start = monotonicNanoseconds()
        spinNanoseconds = oversubscribed ? 2_000 : 40_000
        yieldNanoseconds = oversubscribed ? 30_000 : 120_000
    }

    /// Seconds since the wait began.
    var waitedSeconds: Double { Double(monotonicNanoseconds() - start) * 1e-9 }

    /// Passes the time between two polls; returns the seconds waited so far.
    func pause() -> Double {
        let waited = monotonicNanoseconds() - start
        if waited >= yieldNanoseconds {
            let sleep = min(max(waited / 8, Self.shortestSleepNanoseconds), Self.longestSleepNanoseconds)
            var time = timespec(tv_sec: 0, tv_nsec: Int(sleep))
            nanosleep(&time, nil)
        } else if waited >= spinNanoseconds {
            sched_yield()
        }
        return Double(waited) * 1e-9
    }
}

/// Nanoseconds on a clock that never jumps.
func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
