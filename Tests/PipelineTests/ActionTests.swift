import Pipeline
import Testing

@Suite struct ActionTests {
    static let units = [
        UnitOfWork(stage: 0, microBatch: 0), UnitOfWork(stage: 1, microBatch: 3, chunk: 2),
        UnitOfWork(stage: 65535, microBatch: 4_294_967_295, chunk: 65535),
    ]

    @Test func everyKindSurvivesItsText() {
        for kind in Action.Kind.allCases {
            if kind.isGlobal {
                #expect(Action(Action(kind).description) == Action(kind))
                continue
            }
            if kind == .reduceReplicas {
                #expect(Action("REDUCE_DP s3") == .reduceReplicas(stage: 3))
                #expect(Action.reduceReplicas(stage: 3).description == "REDUCE_DP s3")
                continue
            }
            for unit in Self.units {
                #expect(Action(Action(kind, unit).description) == Action(kind, unit))
                guard kind.isMessage else { continue }
                let skipping = Action(kind, unit, edge: 65535)
                #expect(Action(skipping.description) == skipping && skipping != Action(kind, unit))
            }
        }
        let unrecorded = Action(.forward, Self.units[1], recorded: false)
        #expect(unrecorded.description == "F s1 m3 c2 unrecorded")
        #expect(Action(unrecorded.description) == unrecorded)
    }

    @Test func textMayOmitTheChunk() {
        #expect(Action("  B m3   s1 ") == Action(.backward, UnitOfWork(stage: 1, microBatch: 3)))
    }

    @Test func messagesNameTheirEdge() {
        let action = Action(.sendActivation, UnitOfWork(stage: 0, microBatch: 3), edge: 1)
        #expect(action.description == "SEND_A s0 m3 c0 e1")
        #expect(Action("SEND_A e1 s0 m3") == action)
        #expect(Action("SEND_A s0 m3 e0") == Action("SEND_A s0 m3"))
    }

    @Test(arguments: [
        "SEND_A s0 m0 e65536", "RECV_G s0 m0 e", "F s0 m0 e1", "B s0 m0 e0", "", "F", "F s1", "F m1", "f s0 m0",
        "F s0 m0 x1", "F s0 m0 r1", "F s0 s1 m0", "F s0 m-1", "F s0 m+1", "F s0 m", "F 0 0",
        "B s0 m0 unrecorded", "STEP s0", "REDUCE_DP", "REDUCE_DP s0 m0", "REDUCE_DP m0", "F s65536 m0",
        "F s0 m4294967296", "RECV s0 m0",
    ])
    func malformedTextIsRefused(text: String) {
        #expect(Action(text) == nil)
    }

    @Test func actionsAreSmall() {
        #expect(MemoryLayout<Action>.stride == 12)
    }
}
