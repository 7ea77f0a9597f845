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

    @Test func replicasAreReducedBeforeTheStep() throws {
        let schedule = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 1))
        let lowered = try Lowering.lower(schedule, options: LoweringOptions(reducesReplicas: true))
        for actions in lowered.ranks {
            #expect(actions.suffix(3).map(\.description) == ["REDUCE_TIED", "REDUCE_DP", "STEP"])
        }
        let evaluation = try Lowering.lower(
            ScheduleCatalog.evaluation(placement: .contiguous(stageCount: 2), microBatchCount: 3))
        #expect(!evaluation.ranks.joined().contains { $0.kind.isGlobal })
    }

    @Test func illegalScheduleIsNotLowered() throws {
        var schedule = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 2))
        schedule.ranks[1].removeLast()
        #expect(throws: ScheduleError.self) { try Lowering.lower(schedule) }
    }

    @Test func tagsAreInjective() throws {
        let shape = ScheduleShape(stageCount: 3, microBatchCount: 4, chunkCount: 2, recursionCount: 2)
        let tags = try MessageTags(shape, largestTag: 1000)
        var seen: [Int: StageMessage] = [:]
        for index in 0..<shape.unitCount {
            for kind in Action.Kind.allCases where kind.isMessage {
                guard let message = StageMessage(Action(kind, shape.unit(at: index)), shape) else { continue }
                let tag = tags.tag(of: message)
                #expect((0...1000).contains(tag))
                #expect(seen[tag] == nil || seen[tag] == message)
                seen[tag] = message
            }
        }
        #expect(seen.count == 2 * (shape.unitCount - 8))
        #expect(throws: ScheduleError.tooManyMessages(count: 96, limit: 95)) { try MessageTags(shape, largestTag: 94) }
        _ = try MessageTags(shape, largestTag: 95)
    }
}
