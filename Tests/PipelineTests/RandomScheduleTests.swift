import Pipeline
import Testing

@Suite struct RandomScheduleTests {
    static let seeds: [UInt64] = Array(0..<60)

    static func schedule(_ seed: UInt64) -> Schedule {
        var random = SplitMix(state: seed &* 7919)
        let stageCount = 1 + random.below(6)
        return RandomSchedule.make(
            seed: seed, rankCount: 1 + random.below(stageCount), stageCount: stageCount,
            microBatchCount: 1 + random.below(4), chunkCount: 1 + random.below(3))
    }

    @Test(arguments: seeds) func isProvedAndLowered(seed: UInt64) throws {
        let schedule = Self.schedule(seed)
        try Verifier.verify(schedule)
        for options in [LoweringOptions(), LoweringOptions(receiveLookAhead: 0, sendWindow: 1)] {
            try Verifier.verify(Lowering.lower(schedule, options: options))
        }
    }

    @Test func kindsAndPlacementsVary() {
        let schedules = Self.seeds.map(Self.schedule)
        let kinds = Set(schedules.flatMap { $0.ranks.joined().map(\.kind) })
        #expect(kinds == [.forward, .inputGradient, .weightGradient, .backward, .recompute])
        #expect(schedules.contains { $0.placement.rankCount > 1 && $0.placement.rankCount < $0.placement.stageCount })
        #expect(schedules.contains { $0.placement.ranks != $0.placement.ranks.sorted() })
    }

    @Test(arguments: seeds.prefix(24)) func computesTheSame(seed: UInt64) throws {
        let schedule = Self.schedule(seed)
        #expect(
            try InterpreterTests.gradients(Lowering.lower(schedule))
                == InterpreterTests.reference(schedule.shape))
    }
}
