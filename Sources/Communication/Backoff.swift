import Glibc

/// How a rank waits: it spins while an answer is probably on its way, then offers its core, then sleeps.
///
/// MPI's own waits spin for ever, which takes the cores away from ranks that have work when ranks outnumber
/// cores. Spinning first keeps the latency between two awake ranks; a sleep grows with the time already
/// waited, so that it lengthens a wait by at most a sixteenth, and a long wait costs little processor time.
///
/// Libraries move long messages in fragments, both ends taking part, and do not tell whether a poll moved one. Its
/// duration does: an idle poll takes a fraction of a microsecond, copying a fragment several. As long as polls
/// are busy nobody sleeps.
struct Backoff {
    private let start: UInt64
    private let spinNanoseconds: UInt64
    private let yieldNanoseconds: UInt64
    /// When the current stretch of patience began: the start, the last busy poll, or the last sleep.
    private var quietSince: UInt64
    private var pollStart: UInt64
    private var hasSlept = false

    private static let busyPollNanoseconds: UInt64 = 1_500
    /// Patience after a sleep or a busy poll that follows one.
    private static let renewedPatienceNanoseconds: UInt64 = 8_000
    private static let shortestSleepNanoseconds: UInt64 = 10_000
    private static let longestSleepNanoseconds: UInt64 = 400_000

    /// - Parameter oversubscribed: whether ranks outnumber cores on this node; then the rank that this one waits
    ///   for probably needs its core.
    init(oversubscribed: Bool) {
        start = monotonicNanoseconds()
        quietSince = start
        pollStart = start
        spinNanoseconds = oversubscribed ? 2_000 : 40_000
        yieldNanoseconds = oversubscribed ? 30_000 : 120_000
    }

    /// Passes the time between two polls; returns the seconds waited so far.
    mutating func pause() -> Double {
        var now = monotonicNanoseconds()
        let waited = now - start
        if now - pollStart > Self.busyPollNanoseconds { quietSince = now }
        let quiet = now - quietSince
        if quiet >= (hasSlept ? Self.renewedPatienceNanoseconds : yieldNanoseconds) {
            let sleep = min(max(waited / 16, Self.shortestSleepNanoseconds), Self.longestSleepNanoseconds)
            var time = timespec(tv_sec: 0, tv_nsec: Int(sleep))
            nanosleep(&time, nil)
            hasSlept = true
            now = monotonicNanoseconds()
            quietSince = now
        } else if quiet >= spinNanoseconds {
            sched_yield()
            now = monotonicNanoseconds()
        }
        pollStart = now
        return Double(waited) * 1e-9
    }
}

/// Nanoseconds on a clock that never jumps.
func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
