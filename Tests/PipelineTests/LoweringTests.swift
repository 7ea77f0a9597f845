import Pipeline
import Testing

@Suite struct LoweringTests {
    @Test func twoStagesLookAsWritten() throws {
        let schedule = try ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: 2, microBatchCount: 2))
        let lowered = try Lowering.lower(schedule, options: LoweringOptions(receiveLookAhead: 1, sendWindow: 1))
        #expect(
            lowered.ranks[0].map(\.description) == [
                "F s0 m0 c0", "SEND_A s0 m0 c0", "RECV_G s0 m0 c0", "WAIT_A s0 m0 c0", "F s0 m1 c0", "SEND_A s0 m1 c0",
                "RECV_G s0 m1 c0", "B s0 m0 c0", "B s0 m1 c0", "WAIT_A s0 m1 c0", "REDUCE_TIED", "STEP",
            ])
        #expect(
            lowered.ranks[1].map(\.description) == [
                "RECV_A s1 m0 c0", "F s1 m0 c0", "RECV_A s1 m1 c0", "B s1 m0 c0", "SEND_G s1 m0 c0", "F s1 m1 c0",
                "WAIT_G s1 m0 c0", "B s1 m1 c0", "SEND_G s1 m1 c0", "WAIT_G s1 m1 c0", "REDUCE_TIED", "STEP",
            ])
    }

    @Test func computeOrderIsUntouchedAndEdgesAreCounted() throws {
        for (p, m, k) in [(1, 3, 2), (2, 4, 1), (4, 3, 2), (5, 9, 3)] {
            for name in ScheduleCatalog.names {
                let schedule = try ScheduleCatalog.training(
                    name,
                    ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k, rematerialization: .exceptLast))
                let lowered = try Lowering.lower(schedule)
                #expect(lowered.ranks.map { $0.filter(\.kind.isCompute) } == schedule.ranks)
                let ranks = schedule.placement.ranks
                let edges = zip(ranks, ranks.dropFirst()).count { $0 != $1 }
                for kind in Action.Kind.allCases where kind.isMessage {
                    #expect(lowered.ranks.joined().count { $0.kind == kind } == edges * m * k, "\(name) \(kind.text)")
                }
            }
        }
    }

    @Test func inFlightMessagesAreBounded() throws {
        let options = LoweringOptions(receiveLookAhead: 2, sendWindow: 3)
        for name in ScheduleCatalog.names {
            let schedule = try ScheduleCatalog.training(name, ScheduleRequest(rankCount: 4, microBatchCount: 16))
            let last = schedule.shape.stageCount - 1
            for (rank, actions) in try Lowering.lower(schedule, options: options).ranks.enumerated() {
                let channels = schedule.placement.stages(of: rank).count
                func isRemote(_ stage: Int) -> Bool { schedule.placement.ranks[stage] != rank }
                var posted = 0
                var sending = 0
                for action in actions {
                    switch action.kind {
                    case .receiveActivation, .receiveGradient: posted += 1
                    case .forward where action.stage > 0 && isRemote(action.stage - 1): posted -= 1
                    case .inputGradient where action.stage < last && isRemote(action.stage + 1),
                        .backward where action.stage < last && isRemote(action.stage + 1):
                        posted -= 1
                    case .sendActivation: sending += 1
                    case .waitActivation: sending -= 1
                    default: break
                    }
                    #expect(posted <= options.receiveLookAhead + 1)
                    // A rank visited several times may send long before its peer asks; then the wait is later.
                    if channels == 1 { #expect(sending <= options.sendWindow) }
                }
                #expect(posted == 0 && sending == 0)
            }
        }
    }

    @Test func stagesOnOneRankExchangeNoMessages() throws {
        let schedule = try Schedule(
            text: """
                schedule shared
                micro_batches 1
                placement 0 0 1
                rank 0: F s0 m0; F s1 m0; B s1 m0; B s0 m0
                rank 1: F s2 m0; B s2 m0
                """)
        let lowered = try Lowering.lower(schedule)
        #expect(lowered.ranks[0].filter(\.kind.isMessage).allSatisfy { $0.stage == 1 })
        try Verifier.verify(lowered)
    }

    @Test func skipsAreSentDirect() throws {
        var schedule = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 3, microBatchCount: 1))
        schedule.shape.skips = [SkipEdge(fromStage: 0, toStage: 2)]
        let lowered = try Lowering.lower(schedule, options: LoweringOptions(receiveLookAhead: 0))
        #expect(
            lowered.ranks[0].map(\.description) == [
                "F s0 m0 c0", "SEND_A s0 m0 c0", "SEND_A s0 m0 c0 e1", "RECV_G s0 m0 c0", "RECV_G s0 m0 c0 e1",
                "B s0 m0 c0", "WAIT_A s0 m0 c0", "WAIT_A s0 m0 c0 e1", "REDUCE_TIED", "STEP",
            ])
        #expect(!lowered.ranks[1].contains { $0.edge > 0 })
        #expect(
            lowered.ranks[2].map(\.description) == [
                "RECV_A s2 m0 c0", "RECV_A s2 m0 c0 e1", "F s2 m0 c0", "B s2 m0 c0", "SEND_G s2 m0 c0",
                "SEND_G s2 m0 c0 e1", "WAIT_G s2 m0 c0", "WAIT_G s2 m0 c0 e1", "REDUCE_TIED", "STEP",
            ])
    }

    @Test func skipsNeverDeadlock() throws {
        for (p, m, k) in [(3, 1, 1), (4, 6, 1), (5, 3, 2), (6, 9, 1)] {
            for name in ScheduleCatalog.names {
                var schedule = try ScheduleCatalog.training(
                    name, ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k))
                // U-net shape: every stage of the first half feeds its mirror image.
                let stages = schedule.shape.stageCount
                schedule.shape.skips = (0..<stages / 2).map { SkipEdge(fromStage: $0, toStage: stages - 1 - $0) }
                for window in 1...3 {
                    for lookAhead in 0...3 {
                        let options = LoweringOptions(receiveLookAhead: lookAhead, sendWindow: window)
                        let lowered = try Lowering.lower(schedule, options: options)
                        #expect(Verifier.violations(in: lowered) == [], "\(name) p\(p) m\(m) k\(k) \(options)")
                    }
                }
            }
        }
    }

    @Test func replicasAreReducedAsSoonAsAStageIsDone() throws {
        let text = """
            schedule v
            micro_batches 1
            placement 0 1 1 0
            rank 0: F s0 m0; F s3 m0; B s3 m0; B s0 m0
            rank 1: F s1 m0; F s2 m0; I s2 m0; I s1 m0; W s1 m0; W s2 m0
            """
        let lowered = try Lowering.lower(Schedule(text: text), options: LoweringOptions(reducesReplicas: true))
        try Verifier.verify(lowered)
        #expect(try Schedule(text: lowered.text) == lowered)
        #expect(
            lowered.ranks.map { $0.filter { !$0.kind.isMessage }.map(\.description) } == [
                [
                    "F s0 m0 c0", "F s3 m0 c0", "B s3 m0 c0", "REDUCE_DP s3", "B s0 m0 c0", "REDUCE_DP s0",
                    "REDUCE_TIED", "STEP",
                ],
                [
                    "F s1 m0 c0", "F s2 m0 c0", "I s2 m0 c0", "I s1 m0 c0", "W s1 m0 c0", "REDUCE_DP s1", "W s2 m0 c0",
                    "REDUCE_DP s2", "REDUCE_TIED", "STEP",
                ],
            ])
        let evaluation = try Lowering.lower(
            ScheduleCatalog.evaluation(placement: .contiguous(stageCount: 2), microBatchCount: 3),
            options: LoweringOptions(reducesReplicas: true))
        #expect(evaluation.ranks.joined().allSatisfy { $0.kind.isCompute || $0.kind.isMessage })
        try Verifier.verify(evaluation)
    }

    @Test func illegalScheduleIsNotLowered() throws {
        var schedule = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 2))
        schedule.ranks[1].removeLast()
        #expect(throws: ScheduleError.self) { try Lowering.lower(schedule) }
    }

    @Test func tagsAreInjective() throws {
        var shape = ScheduleShape(stageCount: 3, microBatchCount: 4, chunkCount: 2)
        for skips in [[], [SkipEdge(fromStage: 0, toStage: 2), SkipEdge(fromStage: 0, toStage: 2)]] {
            shape.skips = skips
            let limit = 2 * (shape.unitCount + skips.count * shape.unitsPerStage)
            let tags = try MessageTags(shape, largestTag: limit - 1)
            var seen: [Int: StageMessage] = [:]
            for index in 0..<shape.unitCount {
                for kind in Action.Kind.allCases where kind.isMessage {
                    for edge in 0...skips.count {
                        let action = Action(kind, shape.unit(at: index), edge: edge)
                        guard let message = StageMessage(action, shape) else { continue }
                        let tag = tags.tag(of: message)
                        #expect((0..<limit).contains(tag))
                        #expect(seen[tag] == nil || seen[tag] == message)
                        seen[tag] = message
                    }
                }
            }
            #expect(seen.count == 2 * (shape.unitCount - 8 + skips.count * shape.unitsPerStage))
        }
        shape.skips = []
        #expect(throws: ScheduleError.tooManyMessages(count: 48, limit: 47)) { try MessageTags(shape, largestTag: 46) }
        _ = try MessageTags(shape, largestTag: 47)
    }
}
