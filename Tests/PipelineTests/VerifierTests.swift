import Pipeline
import Testing

@Suite struct VerifierTests {
    static func unit(_ s: Int, _ m: Int, _ c: Int = 0) -> UnitOfWork { UnitOfWork(stage: s, microBatch: m, chunk: c) }

    static func schedule(
        _ ranks: [String], stages placement: [Int], m: Int, k: Int = 1, peak: [Int]? = nil
    ) throws -> Schedule {
        var text = "schedule test\nmicro_batches \(m)\nchunks \(k)\n"
        text += "placement " + placement.map(String.init).joined(separator: " ") + "\n"
        if let peak { text += "peak " + peak.map(String.init).joined(separator: " ") + "\n" }
        for (rank, list) in ranks.enumerated() { text += "rank \(rank): \(list)\n" }
        return try Schedule(text: text)
    }

    static func words(_ schedule: Schedule) -> String {
        Verifier.violations(in: schedule).map(\.description).joined(separator: "\n")
    }

    @Test(arguments: ["gpipe", "1f1b"], Rematerialization.allCases)
    func generatedSchedulesAreLegalBeforeAndAfterLowering(name: String, mode: Rematerialization) throws {
        for p in 1...6 {
            for m in 1...9 {
                for k in 1...4 {
                    let request = ScheduleRequest(
                        rankCount: p, microBatchCount: m, chunkCount: k, rematerialization: mode)
                    let schedule = try ScheduleCatalog.training(name, request)
                    #expect(Verifier.violations(in: schedule) == [], "p\(p) m\(m) k\(k)")
                    for options in [
                        LoweringOptions(), LoweringOptions(receiveLookAhead: 0, sendWindow: 1),
                        LoweringOptions(receiveLookAhead: 1, sendWindow: 2, reducesReplicas: true),
                    ] {
                        let lowered = try Lowering.lower(schedule, options: options)
                        #expect(Verifier.violations(in: lowered) == [], "p\(p) m\(m) k\(k) \(options)")
                    }
                }
            }
        }
    }

    @Test func evaluationIsLegal() throws {
        for p in 1...4 {
            for m in 1...5 {
                let schedule = ScheduleCatalog.evaluation(
                    placement: .contiguous(stageCount: p), microBatchCount: m, chunkCount: 2)
                try Verifier.verify(schedule)
                try Verifier.verify(Lowering.lower(schedule))
            }
        }
    }

    // What PyTorch's `_validate_schedule` accepts.

    @Test func microBatchWithoutBackwardIsRejected() throws {
        let schedule = try Self.schedule(["F s0 m0; F s0 m1; B s0 m0; I s0 m0; W s0 m0"], stages: [0], m: 2)
        #expect(Self.words(schedule).contains("rank 0, position 3, 'I s0 m0 c0': done before"))
        let missing = try Self.schedule(["F s0 m0; F s0 m1; B s0 m0"], stages: [0], m: 2)
        #expect(Self.words(missing).contains("rank 0, absent, 'I s0 m1 c0': the unit has no input gradient"))
    }

    @Test func duplicatesAreRejected() throws {
        let schedule = try Self.schedule(["F s0 m0; F s0 m0; B s0 m0; B s0 m0"], stages: [0], m: 1)
        #expect(Self.words(schedule).contains("rank 0, position 1, 'F s0 m0 c0': done before"))
        #expect(Self.words(schedule).contains("rank 0, position 3, 'B s0 m0 c0': done before"))
    }

    @Test func backwardBeforeTheNextStagesBackwardIsRejected() throws {
        let schedule = try Self.schedule(["F s0 m0; F s1 m0; B s0 m0; B s1 m0"], stages: [0, 0], m: 1)
        #expect(
            Self.words(schedule)
                == "rank 0, position 2, 'B s0 m0 c0': waits for 'B s1 m0 c0' of rank 0 at position 3, "
                + "while that rank is stuck at position 2")
    }

    // What PyTorch's simulator accepts.

    @Test func backwardBeforeForwardIsRejected() throws {
        let schedule = try Self.schedule(["F s0 m0; B s0 m0", "B s1 m0; F s1 m0"], stages: [0, 1], m: 1)
        #expect(Self.words(schedule).contains("rank 1, position 0, 'B s1 m0 c0': waits for 'F s1 m0 c0' of rank 1 at"))
        #expect(Self.words(schedule).contains("rank 0, position 1, 'B s0 m0 c0': waits for 'B s1 m0 c0' of rank 1"))
    }

    @Test func weightGradientBeforeInputGradientIsRejected() throws {
        let schedule = try Self.schedule(["F s0 m0; W s0 m0; I s0 m0"], stages: [0], m: 1)
        #expect(Self.words(schedule).contains("'W s0 m0 c0': waits for 'I s0 m0 c0'"))
    }

    @Test func chunkOrderIsChecked() throws {
        let forward = try Self.schedule(["F s0 m0 c1; F s0 m0; B s0 m0 c1; B s0 m0"], stages: [0], m: 1, k: 2)
        #expect(Self.words(forward).contains("'F s0 m0 c1': waits for 'F s0 m0 c0'"))
        let backward = try Self.schedule(["F s0 m0; F s0 m0 c1; B s0 m0; B s0 m0 c1"], stages: [0], m: 1, k: 2)
        #expect(Self.words(backward).contains("'B s0 m0 c0': input gradients run in micro-batch"))
        let split = try Self.schedule(
            ["F s0 m0; F s0 m0 c1; I s0 m0; I s0 m0 c1; W s0 m0 c1; W s0 m0"], stages: [0], m: 1, k: 2)
        #expect(Self.words(split).contains("'I s0 m0 c0': waits for 'I s0 m0 c1'"))
    }

    @Test func gradientOrderIsChecked() throws {
        let schedule = try Self.schedule(["F s0 m0; F s0 m1; B s0 m1; B s0 m0"], stages: [0], m: 2)
        #expect(Self.words(schedule).contains("position 2, 'B s0 m1 c0'"))
        #expect(Self.words(schedule).contains("'s0 m0 c0' comes first"))
    }

    @Test func memoryBoundIsChecked() throws {
        let list = "F s0 m0; F s0 m1; B s0 m0; B s0 m1"
        try Verifier.verify(Self.schedule([list], stages: [0], m: 2, peak: [2]))
        let tight = try Self.schedule([list], stages: [0], m: 2, peak: [1])
        #expect(Self.words(tight) == "rank 0, position 1, 'F s0 m1 c0': unit 2 alive at once; declared are at most 1")
    }

    @Test func recomputeBelongsExactlyToUnrecordedForwards() throws {
        let needless = try Self.schedule(["F s0 m0; R s0 m0; B s0 m0"], stages: [0], m: 1)
        #expect(Self.words(needless).contains("position 1, 'R s0 m0 c0': the forward of this unit was recorded"))
        let absent = try Self.schedule(["F s0 m0 unrecorded; B s0 m0"], stages: [0], m: 1)
        #expect(Self.words(absent).contains("absent, 'R s0 m0 c0': the forward of this unit was not recorded"))
        let late = try Self.schedule(["F s0 m0 unrecorded; I s0 m0; R s0 m0; W s0 m0"], stages: [0], m: 1)
        #expect(Self.words(late).contains("'I s0 m0 c0': waits for"))
    }

    @Test func foreignAndUnknownUnitsAreRejected() throws {
        let schedule = try Self.schedule(["F s1 m0; B s1 m0", "F s0 m0; F s7 m0; B s0 m3"], stages: [0, 1], m: 1)
        #expect(Self.words(schedule).contains("rank 0, position 0, 'F s1 m0 c0': stage 1 lies on rank 1"))
        #expect(Self.words(schedule).contains("rank 1, position 1, 'F s7 m0 c0': outside 2 stages, 1 micro-batches"))
    }

    @Test func crossedWaitsDeadlockUnderRendezvous() throws {
        let compute = try Self.schedule(
            ["F s0 m0; B s0 m0", "F s1 m0; B s1 m0"], stages: [0, 1], m: 1)
        var lowered = try Lowering.lower(compute, options: LoweringOptions(receiveLookAhead: 0))
        try Verifier.verify(lowered)
        // Rank 1 waits for its gradient's send before rank 0 can have posted the receive: legal. Rank 0 waiting for its
        // activation's send before rank 1 posts is legal too. Waiting before one's own post is not.
        let wait = Action(.waitGradient, Self.unit(1, 0))
        lowered.ranks[1].removeAll { $0 == wait }
        let send = lowered.ranks[1].firstIndex(of: Action(.sendGradient, Self.unit(1, 0)))!
        lowered.ranks[1].insert(wait, at: send + 1)
        try Verifier.verify(lowered)
        let post = Action(.receiveGradient, Self.unit(0, 0))
        lowered.ranks[0].removeAll { $0 == post || $0 == Action(.waitActivation, Self.unit(0, 0)) }
        lowered.ranks[1].removeAll { $0 == Action(.receiveActivation, Self.unit(1, 0)) }
        lowered.ranks[0].insert(contentsOf: [Action(.waitActivation, Self.unit(0, 0)), post], at: 2)
        lowered.ranks[1].insert(Action(.receiveActivation, Self.unit(1, 0)), at: 1)
        let words = Self.words(lowered)
        #expect(words.contains("rank 0, position 2, 'WAIT_A s0 m0 c0': waits for 'RECV_A s1 m0 c0' of rank 1"))
        #expect(words.contains("rank 1, position 0, 'F s1 m0 c0': waits for 'RECV_A s1 m0 c0' of rank 1 at position 1"))
    }

    /// A rank that holds the first and last stage: waiting after a fixed number of sends would deadlock.
    @Test func vShapedPlacementIsLoweredWithoutDeadlock() throws {
        for m in 1...8 {
            let first =
                (0..<m).map { "F s0 m\($0)" } + (0..<m).flatMap { ["F s3 m\($0)", "B s3 m\($0)"] }
                + (0..<m).map { "B s0 m\($0)" }
            let second = (0..<m).flatMap { ["F s1 m\($0)", "F s2 m\($0)", "B s2 m\($0)", "B s1 m\($0)"] }
            let schedule = try Self.schedule(
                [first.joined(separator: ";"), second.joined(separator: ";")], stages: [0, 1, 1, 0], m: m)
            for window in 1...4 {
                for lookAhead in 0...3 {
                    let options = LoweringOptions(receiveLookAhead: lookAhead, sendWindow: window)
                    try Verifier.verify(Lowering.lower(schedule, options: options))
                }
            }
        }
    }

    @Test func skipMessagesAreMatched() throws {
        var compute = try ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: 3, microBatchCount: 2))
        compute.shape.skips = [SkipEdge(fromStage: 0, toStage: 2)]
        let lowered = try Lowering.lower(compute)
        var mutant = lowered
        let receive = Action(.receiveActivation, Self.unit(2, 1), edge: 1)
        mutant.ranks[2].removeAll { $0 == receive }
        #expect(Self.words(mutant) == "rank 2, absent, 'RECV_A s2 m1 c0 e1': 'F s2 m1 c0' needs it")
        // Posted after its need.
        let need = mutant.ranks[2].firstIndex(of: Action(.forward, Self.unit(2, 1)))!
        mutant.ranks[2].insert(receive, at: need + 1)
        #expect(
            Self.words(mutant).contains(
                "'F s2 m1 c0': waits for 'RECV_A s2 m1 c0 e1' of rank 2 at position \(need + 1)"))
        mutant = lowered
        mutant.ranks[1].insert(Action(.sendActivation, Self.unit(1, 0), edge: 1), at: 5)
        #expect(Self.words(mutant).contains("'SEND_A s1 m0 c0 e1': no edge between ranks here"))
        mutant.ranks[1][5] = Action(.sendActivation, Self.unit(1, 0), edge: 2)
        #expect(Self.words(mutant).contains("'SEND_A s1 m0 c0 e2': no edge between ranks here"))
        // A schedule without the skip does not fulfil it.
        var plain = try Lowering.lower(
            ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: 3, microBatchCount: 2)))
        plain.shape.skips = compute.shape.skips
        #expect(Self.words(plain).contains("'SEND_G s2 m0 c0 e1': the backward of s0 m0 c0 on another rank needs it"))
    }

    /// A skip past the forward-only stage in the middle is all that brings stage 0 a gradient.
    @Test func forwardOnlyStagesHaveForwardsAlone() throws {
        var compute = try ScheduleCatalog.training(
            "gpipe", ScheduleRequest(rankCount: 3, microBatchCount: 1, forwardOnly: [1]))
        compute.shape.skips = [SkipEdge(fromStage: 0, toStage: 2)]
        let lowered = try Lowering.lower(
            compute, options: LoweringOptions(receiveLookAhead: 0, reducesReplicas: true))
        try Verifier.verify(lowered)
        #expect(
            lowered.ranks.map { $0.map(\.description) } == [
                [
                    "F s0 m0 c0", "SEND_A s0 m0 c0", "SEND_A s0 m0 c0 e1", "RECV_G s0 m0 c0 e1", "B s0 m0 c0",
                    "REDUCE_DP s0", "WAIT_A s0 m0 c0", "WAIT_A s0 m0 c0 e1", "REDUCE_TIED", "STEP",
                ],
                [
                    "RECV_A s1 m0 c0", "F s1 m0 c0 unrecorded", "SEND_A s1 m0 c0", "WAIT_A s1 m0 c0", "REDUCE_TIED",
                    "STEP",
                ],
                [
                    "RECV_A s2 m0 c0", "RECV_A s2 m0 c0 e1", "F s2 m0 c0", "B s2 m0 c0", "SEND_G s2 m0 c0 e1",
                    "REDUCE_DP s2", "WAIT_G s2 m0 c0 e1", "REDUCE_TIED", "STEP",
                ],
            ])
        func words(_ change: (inout [[Action]]) -> Void) -> String {
            var mutant = lowered
            change(&mutant.ranks)
            return Self.words(mutant)
        }
        #expect(
            words { $0[1][1] = Action(.forward, Self.unit(1, 0)) }
                == "rank 1, position 1, 'F s1 m0 c0': a forward-only stage runs only unrecorded forwards")
        #expect(
            words { $0[1].insert(Action(.backward, Self.unit(1, 0)), at: 2) }
                == "rank 1, position 2, 'B s1 m0 c0': a forward-only stage runs only unrecorded forwards")
        #expect(
            words { $0[2].insert(Action(.sendGradient, Self.unit(2, 0)), at: 4) }
                == "rank 2, position 4, 'SEND_G s2 m0 c0': no edge between ranks here: the stage at its other end is "
                + "absent, on the same rank or, for a gradient, without backward")
        #expect(
            words { $0[1].insert(.reduceReplicas(stage: 1), at: 4) }
                == "rank 1, position 4, 'REDUCE_DP s1': stage 1 is forward only: it has no gradients")
        // With a backward in stage 1, the same lists lack it.
        var whole = lowered
        whole.shape.forwardOnly = []
        #expect(Self.words(whole).contains("'I s1 m0 c0': the unit has no input gradient"))
    }

    @Test func replicasAreReducedOncePerStageAfterItsGradients() throws {
        let compute = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 2))
        let lowered = try Lowering.lower(compute, options: LoweringOptions(reducesReplicas: true))
        try Verifier.verify(lowered)
        let reduction = Action.reduceReplicas(stage: 1)
        let position = lowered.ranks[1].firstIndex(of: reduction)!
        var mutant = lowered
        mutant.ranks[1].remove(at: position)
        #expect(
            Self.words(mutant)
                == "rank 1, absent, 'REDUCE_DP s1': the gradients of stage 1 are never summed over replicas")
        mutant.ranks[1].insert(reduction, at: 4)
        #expect(
            Self.words(mutant)
                == "rank 1, position 4, 'REDUCE_DP s1': stands before the weight gradient of 's1 m0 c0'")
        mutant.ranks[1].append(reduction)
        #expect(Self.words(mutant).contains("expected only REDUCE_TIED, STEP at the end"))
        mutant = lowered
        mutant.ranks[0].insert(reduction, at: 0)
        #expect(Self.words(mutant).contains("rank 0, position 0, 'REDUCE_DP s1': stage 1 lies on rank 1"))
        mutant = lowered
        mutant.reducesReplicas = false
        #expect(Self.words(mutant).contains("'REDUCE_DP s1': the schedule is not marked as reducing over replicas"))
    }
}
