import Pipeline
import Testing

/// Times of recursions on a ring against formulas derived for them; durations are those of one stage's unit.
@Suite struct RingFormulaTests {
    /// Ranks, micro-batches, recursions.
    static let sizes = [2, 4, 5, 8].flatMap { p in
        [1, 2, 3, 5, 8, 16, 19].flatMap { m in [1, 2, 3, 5].map { (p: p, m: m, r: $0) } }
    }

    /// Forward and backward of the stages of each recursion; the backward takes twice as long.
    static func simulate(_ schedule: Schedule, slots: [Double], ringSize: Int) throws -> Simulation {
        let stages = (0..<schedule.shape.stageCount).map { stage in
            let slot = slots[min(stage / ringSize, slots.count - 1)]
            return StageCost(forward: slot, inputGradient: slot, weightGradient: slot)
        }
        return try Simulator.simulate(schedule, CostModel(stages: stages))
    }

    static func ring(
        _ name: String, _ p: Int, _ m: Int, _ r: Int, rings: Int = 1, slots: [Double]? = nil
    ) throws -> Simulation {
        let schedule = try ScheduleCatalog.training(
            name,
            ScheduleRequest(
                rankCount: p, placement: .ring, stageCount: r * p / rings, ringCount: rings, microBatchCount: m))
        return try simulate(
            schedule, slots: slots ?? Array(repeating: 1, count: r), ringSize: p / rings)
    }

    static func isClose(_ a: Double, _ b: Double) -> Bool { abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1) }

    @Test func equalRecursions() throws {
        for (p, m, r) in Self.sizes {
            let slots = m >= p ? m * r + p - 1 : r * p + m - 1
            let label: Comment = "p\(p) m\(m) r\(r)"
            let breadth = try Self.ring("breadth_first", p, m, r)
            #expect(breadth.makespan == Double(3 * slots), label)
            #expect(Self.isClose(breadth.bubbleFraction, 1 - Double(m * r) / Double(slots)), label)
            #expect(breadth.ranks.allSatisfy { $0.peakUnits == m * r }, label)
            if m >= p { #expect(try Self.ring("interleaved", p, m, r).makespan == Double(3 * slots), label) }
            #expect(
                try Self.ring("zb_interleaved", p, m, r).makespan
                    <= Self.ring("interleaved", p, m, r).makespan, label)
            if m >= p {
                let zero = try Self.ring("zb_interleaved", p, m, r)
                #expect(zero.makespan == Double(3 * m * r + p - 1), label)
                let groupSize = (m + m / p - 1) / (m / p)
                #expect(zero.ranks.allSatisfy { $0.peakUnits == min(p + (r - 1) * groupSize, m * r) }, label)
            }
        }
        let large = try Self.ring("breadth_first", 64, 128, 3)
        #expect(Self.isClose(large.bubbleFraction, 63.0 / (3 * 128 + 63)))
        #expect(try Self.ring("zb_interleaved", 64, 128, 3).makespan == 3 * 3 * 128 + 63)
    }

    /// The unrolled layers on `p` ranks, one stage each: a rank's load is that of its recursion.
    @Test func unrolledRecursions() throws {
        for (p, m) in [(3, 5), (6, 4), (6, 24), (12, 24)] {
            let schedule = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: p, microBatchCount: m))
            for slots: [Double] in [[1, 1, 1], [1, 0.75, 0.5], [0.25, 1, 0.5]] {
                let loads: [Double] = (0..<p).map { slots[$0 * 3 / p] }
                let total: Double = loads.reduce(0, +)
                let simulation = try Self.simulate(schedule, slots: slots, ringSize: p / 3)
                let makespan = total + Double(m - 1) * loads.max()!
                #expect(Self.isClose(simulation.makespan, 3 * makespan), "p\(p) m\(m) \(slots)")
                #expect(
                    Self.isClose(
                        simulation.bubbleFraction, 1 - Double(m) * total / Double(p) / makespan))
            }
        }
    }

    @Test func severalRingsWaitForOneGroupEach() throws {
        for (size, rings) in [(2, 2), (4, 2), (2, 3), (3, 4)] {
            for v in 1...3 {
                for groups in [1, 2, 5] {
                    let (p, m) = (size * rings, size * groups)
                    let label: Comment = "\(rings) rings of \(size), v\(v) m\(m)"
                    let bubble = (rings - 1) * v * size + size - 1
                    let depth = try Self.ring("interleaved", p, m, v * rings, rings: rings)
                    #expect(depth.makespan == Double(3 * (m * v + bubble)), label)
                    let zero = try Self.ring("zb_interleaved", p, m, v * rings, rings: rings)
                    #expect(zero.makespan <= depth.makespan, label)
                }
            }
        }
    }

    /// Tokens that leave early make later recursions shorter. Breadth first only the first one's bubble remains;
    /// in groups, each group's long slots come behind short ones.
    @Test func recursionsThatGetShorter() throws {
        for (p, m, r) in Self.sizes {
            let slots = (0..<r).map { Double(r - $0) / Double(r) }
            let sum = slots.reduce(0, +)
            let makespan =
                m >= p ? Double(m) * sum + Double(p - 1) * slots[0] : Double(p) * sum + Double(m - 1) * slots[0]
            let breadth = try Self.ring("breadth_first", p, m, r, slots: slots)
            #expect(Self.isClose(breadth.makespan, 3 * makespan), "p\(p) m\(m) r\(r)")
            if m >= p {
                let bubble = Double(p - 1) / (Double(m) * Double(r + 1) / 2 + Double(p - 1))
                #expect(Self.isClose(breadth.bubbleFraction, bubble), "p\(p) m\(m) r\(r)")
            }
        }
    }

    /// Contiguous, ring in groups, ring breadth first; weight gradients that fill the bubble beat all three.
    @Test(arguments: [(4, 16, [36, 15.8, 8.6]), (8, 32, [38, 21, 9.9])])
    func figures(p: Int, m: Int, percent: [Double]) throws {
        let slots = [1, 0.67, 0.33]
        if p == 4 {
            #expect(Self.isClose(try Self.ring("interleaved", p, m, 3).bubbleFraction, 3.0 / 51))  // 5.9 %
        }
        // Three recursions of p stages in p equal cuts.
        let contiguous = try ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: p, microBatchCount: m))
        let costs = (0..<p).map { rank in
            let slot = (3 * rank..<3 * rank + 3).reduce(0) { $0 + slots[$1 / p] }
            return StageCost(forward: slot, inputGradient: slot, weightGradient: slot)
        }
        let found = [
            try Simulator.simulate(contiguous, CostModel(stages: costs)).bubbleFraction,
            try Self.ring("interleaved", p, m, 3, slots: slots).bubbleFraction,
            try Self.ring("breadth_first", p, m, 3, slots: slots).bubbleFraction,
        ].map { 100 * $0 }
        for (found, percent) in zip(found, percent) {
            #expect(abs(found - percent) < 0.5, "\(found)")
        }
        #expect(try Self.ring("zb_interleaved", p, m, 3, slots: slots).bubbleFraction < found[2] / 100)
    }

    /// The first `n` recursions without gradients: forward `(n + k)`, backward `k` laps.
    @Test func truncatedRecursions() throws {
        for (p, m) in [(2, 2), (4, 4), (4, 9)] {
            for (n, k) in [(0, 1), (1, 1), (3, 2), (6, 4)] {
                let schedule = try ScheduleCatalog.training(
                    "breadth_first",
                    ScheduleRequest(
                        rankCount: p, placement: .ring, stageCount: (n + k) * p, microBatchCount: m,
                        forwardOnly: Set(0..<n * p)))
                let simulation = try Simulator.simulate(
                    schedule,
                    .uniform(stageCount: schedule.shape.stageCount, forward: 1, inputGradient: 1, weightGradient: 1))
                #expect(simulation.makespan == Double(m * (n + k) + 2 * m * k + 3 * (p - 1)), "p\(p) m\(m) n\(n) k\(k)")
                #expect(simulation.ranks.allSatisfy { $0.peakUnits == m * k })
            }
        }
    }
}
