import Foundation
import Pipeline
import Testing

@Suite struct TraceTests {
    @Test func chromeTraceHasOneRowPerRank() {
        let unit = UnitOfWork(stage: 1, microBatch: 3, chunk: 2)
        let json = Trace.chromeJSON(
            [
                [TimedAction(action: Action(.forward, unit), start: 0.001, end: 0.0015)],
                [
                    TimedAction(action: Action(.waitGradient, unit), start: 0, end: 1),
                    TimedAction(action: Action(.step), start: 1, end: 2),
                ],
            ], name: "a \"run\"")
        #expect(
            json == #"""
                {"displayTimeUnit":"ms","traceEvents":[
                {"name":"process_name","ph":"M","pid":0,"tid":0,"args":{"name":"a \"run\""}},
                {"name":"thread_name","ph":"M","pid":0,"tid":0,"args":{"name":"rank 0"}},
                {"name":"F s1 m3 c2","cat":"compute","ph":"X","pid":0,"tid":0,"ts":1000.0,"dur":500.0,"args":{"stage":1,"micro_batch":3,"chunk":2}},
                {"name":"thread_name","ph":"M","pid":0,"tid":1,"args":{"name":"rank 1"}},
                {"name":"WAIT_G s1 m3 c2","cat":"message","ph":"X","pid":0,"tid":1,"ts":0.0,"dur":1000000.0,"args":{"stage":1,"micro_batch":3,"chunk":2}},
                {"name":"STEP","cat":"closing","ph":"X","pid":0,"tid":1,"ts":1000000.0,"dur":1000000.0,"args":{}}
                ]}

                """#)
    }

    /// Each message has an arrow from its SEND to the action that needs it, in every step of the trace.
    @Test(arguments: [false, true]) func messagesAreArrows(isSkipping: Bool) throws {
        var schedule = try ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: 3, microBatchCount: 2))
        if isSkipping { schedule.shape.skips = [SkipEdge(fromStage: 0, toStage: 2)] }
        let lowered = try Lowering.lower(schedule)
        let once = try Simulator.simulate(lowered, .uniform(stageCount: 3), keepsTimeline: true).timeline
        let twice = once.map { step in
            step + step.map { TimedAction(action: $0.action, start: $0.start + 100, end: $0.end + 100) }
        }
        let json = Trace.chromeJSON(twice, shape: lowered.shape)
        let trace = try #require(JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any])
        let events = try #require(trace["traceEvents"] as? [[String: Any]])
        let starts = events.filter { $0["ph"] as? String == "s" }
        let ends = events.filter { $0["ph"] as? String == "f" }
        // Two micro-batches, two directions, two steps, two edges or three.
        #expect(starts.count == 2 * 2 * 2 * (isSkipping ? 3 : 2))
        #expect(starts.map { $0["id"] as! Int } == Array(0..<starts.count))
        #expect(ends.map { $0["id"] as! Int } == Array(0..<starts.count))
        func slice(_ event: [String: Any]) throws -> String {
            let time = event["ts"] as! Double
            let slices = events.filter {
                guard $0["ph"] as? String == "X", ($0["tid"] as! Int) == (event["tid"] as! Int) else { return false }
                let begin = $0["ts"] as! Double
                return begin <= time && time <= begin + ($0["dur"] as! Double)
            }
            let wanted =
                (event["ph"] as! String) == "s" ? "SEND" : (event["name"] as! String) == "activation" ? "F" : "B"
            return try #require(slices.map { $0["name"] as! String }.first { $0.hasPrefix(wanted) })
        }
        for (start, end) in zip(starts, ends) {
            #expect((start["tid"] as! Int) != (end["tid"] as! Int))
            #expect((start["ts"] as! Double) <= (end["ts"] as! Double))
            _ = try slice(start)
            _ = try slice(end)
        }
        #expect(!Trace.chromeJSON(twice).contains(#""ph":"s""#))
    }
}
