import Pipeline
import Testing

@Suite struct SimulatorTests {
    static func isClose(_ a: Double, _ b: Double) -> Bool { abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1) }

    @Test(arguments: ["gpipe", "1f1b"], [1, 2, 4])
    func makespanPeakAndBubbleFollowTheFormulas(name: String, k: Int) throws {
        let (f, i, w) = (1.0, 1.25, 0.75)
        for (p, m) in [(1, 1), (1, 5), (2, 4), (3, 2), (4, 8), (4, 12), (4, 16), (8, 24), (8, 32), (6, 1)] {
            let schedule = try ScheduleCatalog.training(
                name, ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k))
            // A chunk costs 1/k of a micro-batch.
            let costs = CostModel.uniform(
                stageCount: p, forward: f / Double(k), inputGradient: i / Double(k), weightGradient: w / Double(k))
            for subject in [schedule, try Lowering.lower(schedule)] {
                let simulation = try Simulator.simulate(subject, costs)
                let bubble = Double(p - 1) * (f + i + w) / Double(k)
                let label: Comment = "p\(p) m\(m) lowered: \(subject.isLowered)"
                let makespan = Double(m) * (f + i + w) + bubble
                #expect(Self.isClose(simulation.makespan, makespan), label)
                let units = m * k
                for rank in 0..<p {
                    let peak = name == "gpipe" ? units : min(p - 1 - rank + k, units)
                    #expect(simulation.ranks[rank].peakUnits == peak, label)
                    #expect(Self.isClose(simulation.ranks[rank].busy, Double(m) * (f + i + w)), label)
                }
            }
        }
    }

    @Test(arguments: [1, 2, 4]) func equalCostsGiveTheChunkFormula(k: Int) throws {
        for (p, m) in [(4, 8), (4, 12), (4, 16), (8, 24), (8, 32)] {
            for name in ["gpipe", "1f1b"] {
                let schedule = try ScheduleCatalog.training(
                    name, ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k))
                let simulation = try Simulator.simulate(schedule, .uniform(stageCount: p))
                #expect(simulation.makespan == Double(2 * (m * k + p - 1)), "\(name) p\(p) m\(m)")
                #expect(Self.isClose(simulation.bubbleFraction, Double(p - 1) / Double(m * k + p - 1)))
            }
        }
    }

    /// Seq1F1B's published figure: p = 8, m = 24, F = I = W = 1.
    @Test func knownBubbles() throws {
        func bubble(_ k: Int) throws -> Double {
            let schedule = try ScheduleCatalog.training(
                "1f1b", ScheduleRequest(rankCount: 8, microBatchCount: 24, chunkCount: k))
            let unit = 1 / Double(k)
            let costs = CostModel.uniform(stageCount: 8, forward: unit, inputGradient: unit, weightGradient: unit)
            return try Simulator.simulate(schedule, costs).makespan - 72
        }
        #expect(Self.isClose(try bubble(1), 21))
        #expect(Self.isClose(try bubble(4), 5.25))
    }

    @Test func messagesTakeLatencyAndBandwidth() throws {
        let schedule = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 1))
        var costs = CostModel.uniform(stageCount: 2)
        costs.latency = 0.25
        costs.bandwidth = 8
        costs.stages[0].outputBytes = 4
        costs.step = 3
        // F, message of 0.25 + 4/8, F, B, message, B.
        #expect(Self.isClose(try Simulator.simulate(schedule, costs).makespan, 5.5))
        #expect(Self.isClose(try Simulator.simulate(Lowering.lower(schedule), costs).makespan, 8.5))
    }

    @Test func skipsTakeTheirOwnTime() throws {
        var schedule = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 3, microBatchCount: 1))
        schedule.shape.skips = [SkipEdge(fromStage: 0, toStage: 2)]
        var costs = CostModel.uniform(stageCount: 3)
        costs.bandwidth = 8
        costs.stages[0].outputBytes = 4
        // The line waits half a second after stage 0, both ways; the skip takes as long and is hidden by stage 1.
        for subject in [schedule, try Lowering.lower(schedule)] {
            costs.skipBytes = nil
            #expect(Self.isClose(try Simulator.simulate(subject, costs).makespan, 6 + 2 * 0.5))
            // The skip takes 4 s: F0 1, skip 4, F2 B2 2, skip 4, B0 1.
            costs.skipBytes = [32]
            #expect(Self.isClose(try Simulator.simulate(subject, costs).makespan, 12))
        }
    }

    @Test func replicasAreReducedBesideOtherWork() throws {
        let schedule = try Schedule(
            text: """
                schedule two
                micro_batches 1
                placement 0 0
                rank 0: F s0 m0; F s1 m0; B s1 m0; B s0 m0
                """)
        let lowered = try Lowering.lower(schedule, options: LoweringOptions(reducesReplicas: true))
        var costs = CostModel.uniform(stageCount: 2)
        func makespan(_ first: Double, _ second: Double) throws -> Double {
            costs.stages[0].reduceReplicas = first
            costs.stages[1].reduceReplicas = second
            return try Simulator.simulate(lowered, costs).makespan
        }
        #expect(try makespan(0, 0) == 4)
        // Stage 1 is done at 3, stage 0 at 4.
        #expect(try makespan(0, 1) == 4)
        #expect(try makespan(2, 1) == 6)
        // The second reduction follows the first.
        #expect(try makespan(2, 2) == 7)
        #expect(try Simulator.simulate(lowered, costs).ranks[0].busy == 4)
    }

    @Test func unequalStagesArePacedByTheSlowest() throws {
        let schedule = try ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: 3, microBatchCount: 32))
        var costs = CostModel.uniform(stageCount: 3)
        costs.stages[1] = StageCost(forward: 2, inputGradient: 1, weightGradient: 1)
        let simulation = try Simulator.simulate(schedule, costs)
        #expect(Self.isClose(simulation.makespan, 1 + 32 * 4 + 1))
    }

    @Test func recomputeCostsTimeAndSavesMemory() throws {
        var costs = CostModel.uniform(stageCount: 2)
        for stage in 0..<2 {
            costs.stages[stage].activationBytes = 100
            costs.stages[stage].inputBytes = 7
        }
        func simulate(_ mode: Rematerialization) throws -> Simulation {
            try Simulator.simulate(
                ScheduleCatalog.training(
                    "gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 4, rematerialization: mode)), costs)
        }
        let (never, always, exceptLast) = (try simulate(.never), try simulate(.always), try simulate(.exceptLast))
        #expect(never.ranks[0].peakBytes == 400 && never.ranks[0].peakUnits == 4)
        #expect(always.ranks[0].peakBytes == 3 * 7 + 100 && always.ranks[0].peakUnits == 1)
        #expect(exceptLast.ranks[0].peakBytes == 2 * 7 + 200 && exceptLast.ranks[0].peakUnits == 2)
        #expect(always.ranks[0].busy == 12 && exceptLast.ranks[0].busy == 11 && never.ranks[0].busy == 8)
    }

    @Test func evaluationKeepsNothing() throws {
        let schedule = ScheduleCatalog.evaluation(placement: .contiguous(stageCount: 3), microBatchCount: 5)
        var costs = CostModel.uniform(stageCount: 3)
        costs.stages[0].inputBytes = 10
        let simulation = try Simulator.simulate(Lowering.lower(schedule), costs)
        #expect(simulation.makespan == 7)
        #expect(simulation.ranks.allSatisfy { $0.peakUnits == 0 && $0.peakBytes == 0 })
    }

    @Test func timelineHoldsEveryAction() throws {
        let schedule = try ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: 3, microBatchCount: 4))
        let timeline = try Simulator.simulate(schedule, .uniform(stageCount: 3), keepsTimeline: true).timeline
        #expect(timeline.map { $0.map(\.action) } == schedule.ranks)
        for rank in timeline { #expect(zip(rank, rank.dropFirst()).allSatisfy { $0.end <= $1.start }) }
    }

    /// 1/16 of the largest size promised (1024 stages, 4096 micro-batches in 10 s); the cost is linear.
    @Test func largeSchedulesAreFast() throws {
        let clock = ContinuousClock()
        let elapsed = try clock.measure {
            let schedule = try ScheduleCatalog.training(
                "1f1b", ScheduleRequest(rankCount: 256, microBatchCount: 1024))
            let simulation = try Simulator.simulate(schedule, .uniform(stageCount: 256))
            #expect(simulation.makespan == 2 * (1024 + 255))
        }
        #expect(elapsed < .seconds(3))
    }
}
