import Pipeline
import TestSupport
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
        costs.messages.latency = 0.25
        costs.messages.bandwidth = 8
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
        costs.messages.bandwidth = 8
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

    /// One message each way between two ranks: F 1, F 1, B 1, B 1 and what the messages add.
    @Test func copyingCostsProcessorTimeAtBothEnds() throws {
        let compute = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 1))
        for schedule in [compute, try Lowering.lower(compute)] {
            var costs = CostModel.uniform(stageCount: 2)
            costs.stages[0].outputBytes = 4
            costs.messages.messageSeconds = 0.125
            costs.messages.copyBandwidth = 32
            // Half a second in all: a send costs 1/4, the receiver waits anyway and copies meanwhile.
            #expect(try Simulator.simulate(schedule, costs).makespan == 4.5)
            costs.messages.latency = 1
            #expect(try Simulator.simulate(schedule, costs).makespan == 6.5)
            #expect(try Simulator.simulate(schedule, costs).ranks[0].busy == 2)
        }
        // A receiver that was busy pays: rank 1 has F m1 in hand when its message comes.
        let two = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 2))
        var costs = CostModel.uniform(stageCount: 2)
        costs.stages[0].outputBytes = 4
        costs.stages[1].forward = 5
        costs.messages.copyBandwidth = 16
        let timeline = try Simulator.simulate(two, costs, keepsTimeline: true).timeline
        #expect(timeline[1].prefix(2).map(\.start) == [1.25, 6.5])
    }

    @Test func largeMessagesWaitForTheSendersNextLook() throws {
        let schedule = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 1))
        var costs = CostModel.uniform(stageCount: 2)
        costs.stages[0].outputBytes = 5000
        costs.messages.pokeInterval = 0.25
        #expect(try Simulator.simulate(schedule, costs).makespan == 4.5)
        costs.messages.eagerBytes = 5000
        #expect(try Simulator.simulate(schedule, costs).makespan == 4)
        let message = MessageCost(latency: 0.1, bandwidth: 10, pokeInterval: 1, eagerBytes: 4)
        #expect(Self.isClose(message.arrival(sent: 2, posted: 0, 5), 3 + 0.1 + 0.5))
        // Posted late: the answer finds the sender's third look.
        #expect(Self.isClose(message.arrival(sent: 2, posted: 4.5, 5), 5 + 0.1 + 0.5))
        #expect(Self.isClose(message.arrival(sent: 2, posted: 4.5, 4), 4.5 + 0.1 + 0.4))
    }

    @Test func ranksShareProcessors() throws {
        for name in ["gpipe", "1f1b"] {
            for m in [1, 3, 8] {
                let compute = try ScheduleCatalog.training(name, ScheduleRequest(rankCount: 4, microBatchCount: m))
                let stageCount = compute.shape.stageCount
                let work = Double(3 * stageCount * m)
                let travel = Double(2 * (stageCount - 1)) * 0.25
                for schedule in [compute, try Lowering.lower(compute)] {
                    var costs = CostModel.uniform(
                        stageCount: stageCount, forward: 1, inputGradient: 1, weightGradient: 1)
                    costs.messages.latency = 0.25
                    let alone = try Simulator.simulate(schedule, costs)
                    // Enough processors change nothing.
                    costs.processors = 4
                    #expect(try Simulator.simulate(schedule, costs).makespan == alone.makespan)
                    // One processor does all the work, and rests at most while messages travel.
                    costs.processors = 1
                    let one = try Simulator.simulate(schedule, costs).makespan
                    #expect(one >= work - 1e-9 && one <= work + travel + 1e-9, "\(name) m\(m): \(one), work \(work)")
                    costs.processors = 2
                    let two = try Simulator.simulate(schedule, costs, keepsTimeline: true)
                    #expect(two.makespan >= work / 2 - 1e-9 && two.makespan <= one + 1e-9, "\(name) m\(m)")
                    #expect(two.timeline.map { $0.map(\.action) } == schedule.ranks)
                    // Where one rank works at a time, sharing costs nothing.
                    if m == 1, name == "gpipe" || name == "1f1b" {
                        #expect(Self.isClose(one, alone.makespan) && Self.isClose(two.makespan, alone.makespan))
                    }
                }
            }
        }
    }

    @Test func stagesAddUpTheirLayers() {
        let layers = (1...3).map { n in
            StageCost(
                forward: Double(n), inputGradient: 2, weightGradient: 3, outputBytes: 10 * n, activationBytes: n,
                inputBytes: 100 * n, reduceReplicas: 1)
        }
        #expect(
            StageCost(layers: layers)
                == StageCost(
                    forward: 6, inputGradient: 6, weightGradient: 9, outputBytes: 30, activationBytes: 6,
                    inputBytes: 100, reduceReplicas: 3))
    }

    /// Messages arrive before they are needed, and every rank does one thing at a time, whatever anything costs.
    @Test func anyDelaysKeepTheOrderOfThings() throws {
        var random = SplitMix(state: 3)
        for seed in 0..<40 {
            let compute = RandomSchedule.compute(seed: UInt64(seed))
            let lowered = try Lowering.lower(compute)
            var costs = CostModel.uniform(stageCount: compute.shape.stageCount)
            for stage in costs.stages.indices {
                costs.stages[stage] = StageCost(
                    forward: Double(random.below(9)), inputGradient: Double(random.below(9)), weightGradient: 1,
                    outputBytes: random.below(9000))
            }
            costs.messages = MessageCost(
                latency: Double(random.below(3)), bandwidth: 5000, messageSeconds: 0.5, copyBandwidth: 1e4,
                pokeInterval: Double(random.below(2)))
            costs.processors = seed % 3 == 0 ? 1 : nil
            for schedule in [compute, lowered] {
                let simulation = try Simulator.simulate(schedule, costs, keepsTimeline: true)
                #expect(simulation.timeline.map { $0.map(\.action) } == schedule.ranks)
                var ends: [Action: Double] = [:]
                for timed in simulation.timeline.joined() { ends[timed.action] = timed.end }
                for rank in simulation.timeline {
                    #expect(zip(rank, rank.dropFirst()).allSatisfy { $0.end <= $1.start })
                    for timed in rank where timed.action.kind == .forward {
                        let unit = timed.action.unit
                        for edge in 0...compute.shape.skips.count {
                            guard let source = compute.shape.upstream(of: unit, edge: edge) else { continue }
                            let end = ends[Action(.forward, source)] ?? ends[Action(.forward, source, recorded: false)]
                            #expect(timed.start >= end!)
                        }
                    }
                }
            }
        }
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

    @Test func forwardOnlyStagesKeepNothing() throws {
        let schedule = try ScheduleCatalog.training(
            "gpipe", ScheduleRequest(rankCount: 3, microBatchCount: 4, rematerialization: .always, forwardOnly: [0, 1]))
        var costs = CostModel.uniform(stageCount: 3)
        for stage in 0..<3 { costs.stages[stage].inputBytes = 10 }
        for subject in [schedule, try Lowering.lower(schedule)] {
            let simulation = try Simulator.simulate(subject, costs)
            #expect(simulation.makespan == 2 + 3 * 4)
            #expect(simulation.ranks.map(\.peakUnits) == [0, 0, 1])
            #expect(simulation.ranks.map(\.peakBytes) == [0, 0, 40])
        }
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
