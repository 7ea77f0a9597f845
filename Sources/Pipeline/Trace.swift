import Glibc

/// Seconds on a clock that never jumps; ranks of one node share it.
func monotonicSeconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) * 1e-9
}

/// Keeps what one rank did, up to a bound; later actions are counted and dropped.
///
/// Compute actions, reductions and steps are recorded with their duration. A message is recorded as `SEND_*` while it
/// is started, and as `RECV_*` or `WAIT_*` only for the time it kept the rank waiting.
public final class TraceRecorder {
    public let capacity: Int
    /// Times relative to the creation of the recorder; seconds. Ranks that create it together compare.
    public private(set) var actions: [TimedAction] = []
    /// Actions beyond the capacity.
    public private(set) var droppedCount = 0
    private let origin: Double

    public init(capacity: Int) {
        self.capacity = capacity
        actions.reserveCapacity(capacity)
        origin = monotonicSeconds()
    }

    /// Forgets what was recorded, keeping the memory and the time origin.
    public func removeAll() {
        actions.removeAll(keepingCapacity: true)
        droppedCount = 0
    }

    func record(_ action: Action, _ start: Double, _ end: Double) {
        guard actions.count < capacity else {
            droppedCount += 1
            return
        }
        actions.append(TimedAction(action: action, start: start - origin, end: end - origin))
    }
}

/// Writes timelines, measured or simulated, in the Chrome trace format (chrome://tracing, Perfetto): one row per rank.
public enum Trace {
    /// - Parameters:
    ///   - timelines: one per rank, seconds.
    ///   - name: shown as the process name.
    /// - Returns: a JSON object.
    public static func chromeJSON(_ timelines: [[TimedAction]], name: String = "seqtrain") -> String {
        var lines = [
            #"{"name":"process_name","ph":"M","pid":0,"tid":0,"args":{"name":"\#(escaped(name))"}}"#
        ]
        for (rank, timeline) in timelines.enumerated() {
            lines.append(#"{"name":"thread_name","ph":"M","pid":0,"tid":\#(rank),"args":{"name":"rank \#(rank)"}}"#)
            for timed in timeline { lines.append(event(timed, rank)) }
        }
        return #"{"displayTimeUnit":"ms","traceEvents":["# + "\n" + lines.joined(separator: ",\n") + "\n]}\n"
    }

    private static func event(_ timed: TimedAction, _ rank: Int) -> String {
        let action = timed.action
        let category = action.kind.isCompute ? "compute" : action.kind.isMessage ? "message" : "closing"
        let arguments =
            action.kind.isGlobal
            ? "{}"
            : action.kind == .reduceReplicas
                ? #"{"stage":\#(action.stage)}"#
                : #"{"stage":\#(action.stage),"micro_batch":\#(action.microBatch),"chunk":\#(action.chunk),"#
                    + #""recursion":\#(action.recursion)}"#
        let start = microseconds(timed.start)
        let duration = microseconds(timed.end - timed.start)
        return #"{"name":"\#(action)","cat":"\#(category)","ph":"X","pid":0,"tid":\#(rank),"#
            + #""ts":\#(start),"dur":\#(duration),"args":\#(arguments)}"#
    }

    /// Microseconds rounded to nanoseconds.
    private static func microseconds(_ seconds: Double) -> Double { (seconds * 1e9).rounded() / 1e3 }

    private static func escaped(_ text: String) -> String {
        text.unicodeScalars.map { scalar in
            switch scalar {
            case "\"": "\\\""
            case "\\": "\\\\"
            case "\0"..<" ": " "
            default: String(scalar)
            }
        }.joined()
    }
}
