import Pipeline
import Testing

/// Time and memory of the generators against the formulas of their papers. Durations are those of one micro-batch on
/// one rank; a stage's chunk takes `1/(kv)` of them.
@Suite struct ScheduleGeneratorFormulaTests {
    struct Durations: Sendable {
        var f = 1.0
        var i = 1.0
        var w = 1.0
        var sum: Double { f + i + w }
    }

    static let durations = [
        Durations(), Durations(f: 1, i: 1.25, w: 0.75), Durations(f: 1, i: 2, w: 1), Durations(f: 1, i: 1, w: 0.5),
        Durations(f: 1.5, i: 1, w: 1), Durations(f: 1, i: 3, w: 1),
    ]

    static let rankCounts = [1, 2, 3, 4, 5, 8]
    static let microBatchCounts = [1, 2, 3, 5, 8, 12, 17, 24]

    static func simulate(
        _ name: String, _ p: Int, v: Int? = nil, _ m: Int, _ k: Int, _ durations: Durations, keepsTimeline: Bool = false
    ) throws -> (simulation: Simulation, bubble: Double) {
        let schedule = try ScheduleCatalog.training(
            name, ScheduleRequest(rankCount: p, virtualStages: v, microBatchCount: m, chunkCount: k))
        let share = Double(schedule.shape.stageCount / p * k)
        let costs = CostModel.uniform(
            stageCount: schedule.shape.stageCount, forward: durations.f / share, inputGradient: durations.i / share,
            weightGradient: durations.w / share)
        let simulation = try Simulator.simulate(schedule, costs, keepsTimeline: keepsTimeline)
        return (simulation, simulation.makespan - Double(m) * durations.sum)
    }

    static func isClose(_ a: Double, _ b: Double) -> Bool { abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1) }

    @Test(arguments: [1, 2, 3, 4], [1, 2, 3, 4]) func interleavedAndBreadthFirst(v: Int, k: Int) throws {
        for p in Self.rankCounts {
            for m in Self.microBatchCounts where m * k >= p {
                for durations in Self.durations {
                    let expected = Double(p - 1) * durations.sum / Double(v * k)
                    let depth = try Self.simulate("interleaved", p, v: v, m, k, durations)
                    let breadth = try Self.simulate("breadth_first", p, v: v, m, k, durations)
                    #expect(Self.isClose(depth.bubble, expected), "interleaved p\(p) m\(m)")
                    #expect(Self.isClose(breadth.bubble, expected), "breadth_first p\(p) m\(m)")
                    #expect(breadth.simulation.ranks.allSatisfy { $0.peakUnits == m * k * v })
                    let groups = max(1, m / ((p + k - 1) / k))
                    let groupUnits = (m + groups - 1) / groups * k
                    for rank in 0..<p {
                        let peak = min(2 * (p - 1 - rank) + (v - 1) * groupUnits + k, m * k * v)
                        #expect(depth.simulation.ranks[rank].peakUnits == peak, "p\(p) m\(m)")
                    }
                    if k == 1, m % p == 0, m >= 2 * p {
                        #expect(depth.simulation.ranks[0].peakUnits == v * p + p - 1)
                    }
                }
            }
        }
    }

    @Test(arguments: [1, 2, 3, 4], [1, 2, 3, 4]) func zeroBubbleInterleaved(v: Int, k: Int) throws {
        for p in Self.rankCounts {
            for m in Self.microBatchCounts where m >= p {
                for durations in Self.durations {
                    let (f, i, w) = (durations.f, durations.i, durations.w)
                    let found = try Self.simulate("zb_interleaved", p, v: v, m, k, durations)
                    #expect(
                        Self.isClose(found.bubble, Double(p - 1) * max(f, f + i - w) / Double(v * k)),
                        "p\(p) m\(m) \(durations): \(found.bubble)")
                    let groups = max(1, m / ((p + k - 1) / k))
                    let peak = min(p - 1 + (v - 1) * ((m + groups - 1) / groups * k) + k, m * k * v)
                    #expect(found.simulation.ranks.allSatisfy { $0.peakUnits == peak }, "p\(p) m\(m)")
                }
            }
        }
    }

    @Test(arguments: [1, 2, 3, 4]) func oneStageIs1F1B(k: Int) throws {
        for p in Self.rankCounts {
            for m in Self.microBatchCounts where m * k >= p {
                let interleaved = try Self.simulate("interleaved", p, v: 1, m, k, Durations())
                let plain = try Self.simulate("1f1b", p, m, k, Durations())
                #expect(Self.isClose(interleaved.bubble, plain.bubble))
            }
        }
    }

    @Test(arguments: [1, 2, 3, 4]) func zeroBubbleH1(k: Int) throws {
        for p in Self.rankCounts {
            for m in Self.microBatchCounts where m >= p {
                for (f, i, w) in (Self.durations + [Durations(f: 1, i: 1, w: 1.5)]).map({ ($0.f, $0.i, $0.w) }) {
                    let (simulation, bubble) = try Self.simulate("zb_h1", p, m, k, Durations(f: f, i: i, w: w))
                    #expect(
                        Self.isClose(bubble, Double(p - 1) * max(f, f + i - w) / Double(k)),
                        "p\(p) m\(m) \(f) \(i) \(w)")
                    for rank in simulation.ranks { #expect(rank.peakUnits == min(p - 1 + k, m * k)) }
                }
            }
        }
    }

    @Test(arguments: [1, 2, 3, 4]) func zeroBubbleH2(k: Int) throws {
        for p in Self.rankCounts {
            for m in Self.microBatchCounts where m >= 2 * p - 1 {
                for (f, i, w) in Self.durations.map({ ($0.f, $0.i, $0.w) }) {
                    let (simulation, bubble) = try Self.simulate(
                        "zb_h2", p, m, k, Durations(f: f, i: i, w: w), keepsTimeline: true)
                    #expect(
                        Self.isClose(bubble, Double(p - 1) * max(f, f + i - 2 * w) / Double(k)),
                        "p\(p) m\(m) \(f) \(i) \(w): \(bubble * Double(k))")
                    for rank in simulation.ranks { #expect(rank.peakUnits == min(2 * (p - 1) + k, m * k)) }
                    let span = simulation.timeline.map { $0.last!.end - $0.first!.start }.max()!
                    #expect(
                        Self.isClose(span - Double(m) * (f + i + w), Double(p - 1) * max(0, f + i - 2 * w) / Double(k)),
                        "span p\(p) m\(m) \(f) \(i) \(w)")
                }
            }
        }
    }

    /// Slots of one stage's F, I or W, all equal, beyond the work of a rank.
    static func slots(_ name: String, _ p: Int, _ m: Int, _ k: Int) throws -> (bubble: Int, peak: Int) {
        let schedule = try ScheduleCatalog.training(
            name, ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k))
        let simulation = try Simulator.simulate(
            schedule,
            .uniform(stageCount: schedule.shape.stageCount, forward: 1, inputGradient: 1, weightGradient: 1))
        let work = 3 * schedule.shape.stageCount / p * m * k
        return (Int(simulation.makespan) - work, simulation.ranks.map(\.peakUnits).max()!)
    }

    /// Bubbles in slots; 1F1B's is `6(p−1)`, ZB-H1's `2(p−1)`.
    @Test(arguments: 1...16, [1, 2, 3, 4]) func vShapes(p: Int, k: Int) throws {
        for m in Set(Self.microBatchCounts + [p, 2 * p - 1, 3 * p]) {
            let label: Comment = "p\(p) m\(m) k\(k)"
            let isLong = m * k >= 2 * (p - 1) + k
            // A short step lasts as long as its first micro-batch takes to come back.
            func bound(_ slots: Int) -> Int { isLong ? slots : max(slots, 4 * (p - 1)) }
            let chunks = 2 * (k - 1)

            let zeroBubble = try Self.slots("zb_v", p, m, k)
            if isLong { #expect(zeroBubble.bubble == p - 1, label) }
            #expect(zeroBubble.bubble <= bound(p - 1), label)
            #expect(zeroBubble.peak == min(2 * p + chunks, 2 * m * k), label)

            let dual = try Self.slots("dualpipe_v", p, m, k)
            if isLong { #expect(dual.bubble == p - 1 + (p > 1 ? p % 2 : 0), label) }
            #expect(dual.bubble <= bound(p), label)
            #expect(dual.peak == min(2 * p + 1 + chunks, 2 * m * k), label)

            let half = try Self.slots("v_half", p, m, k)
            #expect(half.bubble <= bound(3 * (p - 1) + (k == 1 ? 0 : 3)), label)
            #expect(half.peak <= 2 * ((p + 2) / 2) + chunks, label)

            let least = try Self.slots("v_min", p, m, k)
            #expect(least.bubble <= bound(4 * (p - 1) + (k == 1 ? 1 : 6 * (k - 1) + 1)), label)
            #expect(least.peak <= 2 * ((p + 4) / 3) + chunks, label)

            for other in [zeroBubble, dual, half] + (k == 1 ? [least] : []) {
                #expect(other.bubble <= 6 * (p - 1), label)
            }
        }
    }

    /// The figures promised for `p = 8`, `m = 24`, four chunks.
    @Test func chunksTimesZeroBubble() throws {
        let (simulation, bubble) = try Self.simulate("zb_h1", 8, 24, 4, Durations())
        #expect(Self.isClose(bubble, 1.75))
        #expect(simulation.ranks.allSatisfy { $0.peakUnits == 11 })  // 2.75 micro-batches
        #expect(abs(simulation.bubbleFraction - 0.024) < 0.0005)
    }

    @Test(arguments: ["zb_h1", "zb_h2"], [1, 2, 3]) func neverSlowerThan1F1B(name: String, k: Int) throws {
        for p in Self.rankCounts {
            for m in Self.microBatchCounts {
                for durations in Self.durations {
                    let own = try Self.simulate(name, p, m, k, durations).bubble
                    let plain = try Self.simulate("1f1b", p, m, k, durations).bubble
                    #expect(own <= plain + 1e-9, "p\(p) m\(m) \(durations)")
                }
            }
        }
    }
}
