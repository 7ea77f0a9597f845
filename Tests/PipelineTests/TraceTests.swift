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
                {"name":"F s1 m3 c2","cat":"compute","ph":"X","pid":0,"tid":0,"ts":1000.0,"dur":500.0,"args":{"stage":1,"micro_batch":3,"chunk":2,"recursion":0}},
                {"name":"thread_name","ph":"M","pid":0,"tid":1,"args":{"name":"rank 1"}},
                {"name":"WAIT_G s1 m3 c2","cat":"message","ph":"X","pid":0,"tid":1,"ts":0.0,"dur":1000000.0,"args":{"stage":1,"micro_batch":3,"chunk":2,"recursion":0}},
                {"name":"STEP","cat":"closing","ph":"X","pid":0,"tid":1,"ts":1000000.0,"dur":1000000.0,"args":{}}
                ]}

                """#)
    }
}
