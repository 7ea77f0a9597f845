import Pipeline
import Testing

/// What holds for every generator.
@Suite struct ScheduleGeneratorTests {
    /// Requests that reach odd, indivisible and tiny cases.
    static func requests(_ name: String) throws -> [ScheduleRequest] {
        let takesStages =
            try ScheduleCatalog.placement(name, ScheduleRequest(rankCount: 2, microBatchCount: 1))
            == .interleaved(rankCount: 2, virtualStages: 2)
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
        for request in try Self.requests(name) {
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
        for var request in try Self.requests(name) where request.microBatchCount <= 5 {
            request.rematerialization = mode
            let schedule = try ScheduleCatalog.training(name, request)
            try Verifier.verify(schedule)
            try Verifier.verify(Lowering.lower(schedule))
            let costs = CostModel.uniform(stageCount: schedule.shape.stageCount)
            #expect(try Simulator.simulate(schedule, costs).ranks.map(\.peakUnits) == schedule.peakUnits, "\(request)")
        }
    }

    @Test func placementsHaveTheirNames() throws {
        #expect(Placement.contiguous(stageCount: 3).ranks == [0, 1, 2])
        #expect(Placement.interleaved(rankCount: 2, virtualStages: 3).ranks == [0, 1, 0, 1, 0, 1])
        #expect(Placement.vShape(rankCount: 3).ranks == [0, 1, 2, 2, 1, 0])
        #expect(PlacementKind.allCases.map(\.rawValue) == ["contiguous", "interleaved", "v_shape"])
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
                + "schedule that has it: interleaved, breadth_first")
    }
}
