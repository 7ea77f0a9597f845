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

/// Writes timelines, measured or simulated, in the Chrome trace format (chrome://tracing, Perfetto): one row per rank,
/// and an arrow for each message from its SEND to the action that consumes it.
public enum Trace {
    /// - Parameters:
    ///   - timelines: one per rank, seconds; one step or several.
    ///   - shape: says which action consumes a message; nil draws no arrows.
    ///   - name: shown as the process name.
    /// - Returns: a JSON object.
    public static func chromeJSON(
        _ timelines: [[TimedAction]], shape: ScheduleShape? = nil, name: String = "seqtrain"
    ) -> String {
        var lines = [
            #"{"name":"process_name","ph":"M","pid":0,"tid":0,"args":{"name":"\#(escaped(name))"}}"#
        ]
        for (rank, timeline) in timelines.enumerated() {
            lines.append(#"{"name":"thread_name","ph":"M","pid":0,"tid":\#(rank),"args":{"name":"rank \#(rank)"}}"#)
            for timed in timeline { lines.append(event(timed, rank)) }
        }
        if let shape { lines += arrows(timelines, shape) }
        return #"{"displayTimeUnit":"ms","traceEvents":["# + "\n" + lines.joined(separator: ",\n") + "\n]}\n"
    }

    /// A message of the `step`-th step in a trace.
    private struct Flow: Hashable {
        var message: StageMessage
        var step: Int
    }

    /// Flow events in pairs: the beginning within the SEND, the end at the beginning of the action that needs it.
    private static func arrows(_ timelines: [[TimedAction]], _ shape: ScheduleShape) -> [String] {
        var sends: [Flow: (rank: Int, time: Double)] = [:]
        for (rank, timeline) in timelines.enumerated() {
            var steps: [StageMessage: Int] = [:]
            for timed in timeline where timed.action.kind == .sendActivation || timed.action.kind == .sendGradient {
                guard let message = StageMessage(timed.action, shape) else { continue }
                sends[Flow(message: message, step: steps[message, default: 0])] = (rank, timed.start)
                steps[message, default: 0] += 1
            }
        }
        var lines: [String] = []
        for (rank, timeline) in timelines.enumerated() {
            var steps: [StageMessage: Int] = [:]
            for timed in timeline {
                for receive in StageMessage.receives(for: timed.action, shape) {
                    let message = StageMessage(receive, shape)!
                    let flow = Flow(message: message, step: steps[message, default: 0])
                    steps[message, default: 0] += 1
                    // Stages on one rank exchange no messages, and a trace may begin in the middle.
                    guard let send = sends[flow] else { continue }
                    let kind = message.kind == .activation ? "activation" : "gradient"
                    let head = #"{"name":"\#(kind)","cat":"message","id":\#(lines.count / 2),"pid":0,"#
                    let start = microseconds(send.time)
                    lines.append(head + #""ph":"s","tid":\#(send.rank),"ts":\#(start)}"#)
                    lines.append(head + #""ph":"f","bp":"e","tid":\#(rank),"ts":\#(microseconds(timed.start))}"#)
                }
            }
        }
        return lines
    }

    private static func event(_ timed: TimedAction, _ rank: Int) -> String {
        let action = timed.action
        let category = action.kind.isCompute ? "compute" : action.kind.isMessage ? "message" : "closing"
        let arguments =
            action.kind.isGlobal
            ? "{}"
            : action.kind == .reduceReplicas
                ? #"{"stage":\#(action.stage)}"#
                : #"{"stage":\#(action.stage),"micro_batch":\#(action.microBatch),"chunk":\#(action.chunk)}"#
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
