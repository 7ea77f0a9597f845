import Pipeline
import Testing

/// What holds for every generator.
@Suite struct ScheduleGeneratorTests {
    /// Requests that reach odd, indivisible and tiny cases.
    static func requests(_ name: String) -> [ScheduleRequest] {
        let takesStages = ScheduleCatalog.placementKind(name) == .interleaved
        return [1, 2, 3, 4, 5, 8].flatMap { p in
            [1, 2, 3, 5, 8, 13, 17].flatMap { m in
                [1, 2, 3].flatMap { k in
                    (takesStages ? [1, 2, 3] : [nil]).map { v in
                        ScheduleRequest(rankCount: p, virtualStages: v, microBatchCount: m, chunkCount: k)
                    }
                }
            }
        }
    }

    @Test(arguments: ScheduleCatalog.names) func everySizeIsProvedLoweredAndTimed(name: String) throws {
        for request in Self.requests(name) {
            let schedule = try ScheduleCatalog.training(name, request)
            try Verifier.verify(schedule)
            let lowered = try Lowering.lower(schedule)
            try Verifier.verify(lowered)
            let costs = CostModel.uniform(stageCount: schedule.shape.stageCount)
            let simulation = try Simulator.simulate(schedule, costs)
            #expect(simulation.ranks.map(\.peakUnits) == schedule.peakUnits, "\(request)")
            // Posting receives late or waiting for sends may cost time, never gain it.
            #expect(try Simulator.simulate(lowered, costs).makespan >= simulation.makespan - 1e-9, "\(request)")
        }
    }

    @Test(arguments: ScheduleCatalog.names, [Rematerialization.always, .exceptLast])
    func rematerializedSchedulesAreProved(name: String, mode: Rematerialization) throws {
        for var request in Self.requests(name) where request.microBatchCount <= 5 {
            request.rematerialization = mode
            let schedule = try ScheduleCatalog.training(name, request)
            try Verifier.verify(schedule)
            try Verifier.verify(Lowering.lower(schedule))
            let costs = CostModel.uniform(stageCount: schedule.shape.stageCount)
            #expect(try Simulator.simulate(schedule, costs).ranks.map(\.peakUnits) == schedule.peakUnits, "\(request)")
        }
    }

    static let ringSchedules = ScheduleCatalog.names.filter { ScheduleCatalog.placementKinds($0).contains(.ring) }

    /// Laps that are not full, several rings, fewer micro-batches than ranks, forward-only laps.
    @Test(arguments: ringSchedules) func ringsAreProvedLoweredAndTimed(name: String) throws {
        for (p, rings) in [(1, 1), (2, 1), (3, 1), (4, 1), (7, 1), (2, 2), (4, 2), (6, 3)] {
            for stages in Set([p, p + 1, 2 * p + 1, 3 * p - 1, 3 * p, 4 * p + 3]) where stages >= p {
                for (m, k) in [(1, 1), (3, 1), (2, 3), (p, 1), (2 * p + 1, 1), (13, 2)] {
                    let request = ScheduleRequest(
                        rankCount: p, placement: .ring, stageCount: stages, ringCount: rings, microBatchCount: m,
                        chunkCount: k, rematerialization: m == 3 ? .always : .never,
                        forwardOnly: m == p ? Set(0..<stages / 2) : [])
                    let schedule = try ScheduleCatalog.training(name, request)
                    try Verifier.verify(schedule)
                    try Verifier.verify(Lowering.lower(schedule))
                    let simulation = try Simulator.simulate(schedule, .uniform(stageCount: stages))
                    #expect(simulation.ranks.map(\.peakUnits) == schedule.peakUnits, "\(request)")
                }
            }
        }
    }

    @Test(arguments: ringSchedules) func everyRingComputesTheSame(name: String) throws {
        for (p, stages, rings, m, k) in [(2, 5, 1, 3, 2), (3, 7, 1, 2, 1), (4, 9, 2, 5, 1)] {
            let schedule = try ScheduleCatalog.training(
                name,
                ScheduleRequest(
                    rankCount: p, placement: .ring, stageCount: stages, ringCount: rings, microBatchCount: m,
                    chunkCount: k))
            #expect(
                try InterpreterTests.gradients(Lowering.lower(schedule)) == InterpreterTests.reference(schedule.shape))
        }
    }

    @Test func placementsHaveTheirNames() throws {
        #expect(Placement.contiguous(stageCount: 3).ranks == [0, 1, 2])
        #expect(Placement.interleaved(rankCount: 2, virtualStages: 3).ranks == [0, 1, 0, 1, 0, 1])
        #expect(Placement.vShape(rankCount: 3).ranks == [0, 1, 2, 2, 1, 0])
        #expect(PlacementKind.allCases.map(\.rawValue) == ["contiguous", "interleaved", "v_shape", "ring"])
        // A last stage on the home rank; two rings of two laps each, and of two and one; three more stages.
        #expect(Placement.ring(stageCount: 7, rankCount: 3).ranks == [0, 1, 2, 0, 1, 2, 0])
        #expect(Placement.ring(stageCount: 8, rankCount: 4, ringCount: 2).ranks == [0, 1, 0, 1, 2, 3, 2, 3])
        #expect(Placement.ring(stageCount: 7, rankCount: 4, ringCount: 2).ranks == [0, 1, 0, 1, 2, 3, 2])
        #expect(Placement.ring(stageCount: 6, rankCount: 3, ringCount: 3).ranks == [0, 0, 1, 1, 2, 2])
        for p in 1...6 {
            for v in 1...3 {
                #expect(
                    Placement.ring(stageCount: v * p, rankCount: p) == .interleaved(rankCount: p, virtualStages: v))
                #expect(Placement.ring(stageCount: p, rankCount: p, ringCount: p) == .contiguous(stageCount: p))
            }
        }
        #expect(
            try ScheduleCatalog.placement("interleaved", ScheduleRequest(rankCount: 2, microBatchCount: 1))
                == .interleaved(rankCount: 2, virtualStages: 2))
    }

    static func message(_ name: String, _ request: ScheduleRequest) -> String {
        do {
            _ = try ScheduleCatalog.training(name, request)
            return ""
        } catch { return error.description }
    }

    @Test func whatDoesNotGoTogetherIsNamed() {
        #expect(
            Self.message("1f1b", ScheduleRequest(rankCount: 2, virtualStages: 2, microBatchCount: 1))
                == "schedule '1f1b' got virtual_stages 2; expected 1, as it has one stage per rank; interleaved and "
                + "breadth_first take more")
        #expect(
            Self.message("interleaved", ScheduleRequest(rankCount: 2, virtualStages: 0, microBatchCount: 1))
                == "schedule 'interleaved' got virtual_stages 0; expected 1 or more")
        #expect(
            Self.message("zb_h1", ScheduleRequest(rankCount: 2, placement: .interleaved, microBatchCount: 1))
                == "schedule 'zb_h1' needs placement contiguous, got interleaved; leave the placement out, or choose a "
                + "schedule that has it: interleaved, breadth_first, zb_interleaved")
        #expect(
            Self.message("interleaved", ScheduleRequest(rankCount: 2, placement: .vShape, microBatchCount: 1))
                == "schedule 'interleaved' needs placement interleaved or ring, got v_shape; leave the placement out, or "
                + "choose a schedule that has it: zb_v, v_half, v_min, dualpipe_v")
        #expect(
            Self.message("interleaved", ScheduleRequest(rankCount: 2, stageCount: 5, microBatchCount: 1))
                == "schedule 'interleaved' got a number of stages or rings, which placement interleaved fixes; only ring "
                + "takes one")
        func ring(stages: Int?, rings: Int) -> String {
            Self.message(
                "breadth_first",
                ScheduleRequest(
                    rankCount: 4, placement: .ring, stageCount: stages, ringCount: rings, microBatchCount: 1))
        }
        #expect(ring(stages: 3, rings: 1) == "schedule 'breadth_first' got 3 stages; expected one per rank at least, 4")
        #expect(
            ring(stages: nil, rings: 3)
                == "schedule 'breadth_first' got 3 rings; expected a number that divides the 4 ranks")
    }

    @Test(arguments: ScheduleCatalog.names) func everyScheduleComputesTheSame(name: String) throws {
        for (p, m, k) in [(1, 2, 2), (2, 3, 1), (3, 2, 2), (3, 5, 1), (4, 5, 3)] {
            let schedule = try ScheduleCatalog.training(
                name, ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k))
            #expect(
                try InterpreterTests.gradients(Lowering.lower(schedule)) == InterpreterTests.reference(schedule.shape),
                "p\(p) m\(m) k\(k)")
        }
    }

    /// Any stages without backward, the first and the last among them, with a skip past them.
    @Test(arguments: ScheduleCatalog.names) func stagesMayBeForwardOnly(name: String) throws {
        for (p, m, k, mode) in [
            (1, 2, 2, Rematerialization.never), (2, 3, 1, .always), (3, 2, 2, .never), (4, 9, 1, .never),
        ] {
            var request = ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k, rematerialization: mode)
            let stageCount = try ScheduleCatalog.placement(name, request).stageCount
            let last = stageCount - 1
            for forwardOnly in [Set(0..<stageCount / 2), Set(1..<max(1, last)), Set([last]), Set(0..<stageCount)] {
                request.forwardOnly = forwardOnly
                var schedule = try ScheduleCatalog.training(name, request)
                if last > 1 { schedule.shape.skips = [SkipEdge(fromStage: 0, toStage: last)] }
                try Verifier.verify(schedule)
                let lowered = try Lowering.lower(schedule, options: LoweringOptions(reducesReplicas: true))
                try Verifier.verify(lowered)
                let costs = CostModel.uniform(stageCount: stageCount)
                #expect(try Simulator.simulate(schedule, costs).ranks.map(\.peakUnits) == schedule.peakUnits)
                #expect(
                    try InterpreterTests.gradients(lowered) == InterpreterTests.reference(schedule.shape),
                    "p\(p) m\(m) k\(k) \(forwardOnly)")
            }
        }
    }

    /// Ranks stay busy from their first forward on when there is work enough to go round.
    @Test func evaluationsStream() throws {
        func makespan(_ placement: Placement, _ m: Int, _ k: Int) throws -> Int {
            let schedule = ScheduleCatalog.evaluation(placement: placement, microBatchCount: m, chunkCount: k)
            try Verifier.verify(schedule)
            try Verifier.verify(Lowering.lower(schedule))
            let costs = CostModel.uniform(stageCount: placement.stageCount)
            return Int(try Simulator.simulate(schedule, costs).makespan)
        }
        for p in 1...6 {
            for k in 1...2 {
                for m in [1, 2, 5, 6, 12, 17] {
                    let units = m * k
                    let label: Comment = "p\(p) m\(m) k\(k)"
                    #expect(try makespan(.contiguous(stageCount: p), m, k) == units + p - 1, label)
                    #expect(try makespan(.vShape(rankCount: p), m, k) == 2 * units + 2 * (p - 1), label)
                    for v in 1...3 {
                        let ring = try makespan(.interleaved(rankCount: p, virtualStages: v), m, k)
                        if units % p == 0 { #expect(ring == v * units + p - 1, label) }
                        #expect(ring <= v * (units + p), label)
                    }
                }
            }
        }
    }

    /// 1024 ranks and 4096 micro-batches are made within seconds; 1/16 of that here, the cost is linear.
    @Test(arguments: ScheduleCatalog.names) func largeSchedulesAreMadeFast(name: String) throws {
        let elapsed = try ContinuousClock().measure {
            _ = try ScheduleCatalog.training(name, ScheduleRequest(rankCount: 256, microBatchCount: 1024))
        }
        #expect(elapsed < .seconds(5))
    }
}
