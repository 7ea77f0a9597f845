import Pipeline
import TestSupport
import Testing

/// Small changes to legal schedules. What the verifier says must agree with `ValueMachine`, which runs them on numbers.
@Suite struct MutationTests {
    struct Subject: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var schedule: Schedule
    }

    static let subjects: [Subject] = {
        let shapes: [(Int, Int, Int, Rematerialization)] = [
            (3, 3, 1, .exceptLast), (2, 2, 2, .always), (2, 3, 1, .never),
        ]
        var compute = ScheduleCatalog.names.enumerated().map { number, name in
            let (p, m, k, mode) = shapes[number % shapes.count]
            return try! ScheduleCatalog.training(
                name, ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k, rematerialization: mode))
        }
        // V shapes, loops, skips between ranks and within one.
        compute += (0..<40).map { RandomSchedule.compute(seed: $0) }
            .filter { $0.ranks.count > 1 && (6...12).contains($0.shape.unitCount) }.prefix(5)
        var truncated = try! ScheduleCatalog.training(
            "interleaved", ScheduleRequest(rankCount: 2, microBatchCount: 2, forwardOnly: [1, 2]))
        truncated.shape.skips = [SkipEdge(fromStage: 0, toStage: 3)]
        compute.append(truncated)
        compute.append(
            ScheduleCatalog.evaluation(placement: .contiguous(stageCount: 3), microBatchCount: 2, chunkCount: 2))
        return compute.enumerated().flatMap { number, schedule in
            let tight = LoweringOptions(receiveLookAhead: 1, sendWindow: 1, reducesReplicas: number % 2 == 0)
            let name = "\(number)-\(schedule.name)"
            return [
                Subject(testDescription: name, schedule: schedule),
                Subject(testDescription: name + "-lowered", schedule: try! Lowering.lower(schedule, options: tight)),
            ]
        }
    }()

    /// Mutants of one kind tried per subject, evenly spread over all of them.
    static let mutantLimit = 1500

    /// Whether to try the mutant with this number, of `total`; counts it.
    private func isChosen(_ number: inout Int, of total: Int) -> Bool {
        number += 1
        return number % (total / Self.mutantLimit + 1) == 0
    }

    /// Compares the verdicts on a mutant, and checks that a rejection names what was changed.
    private func judge(_ mutant: Schedule, _ change: String, touching actions: [Action], ranks: [Int]) -> Bool {
        let violations = Verifier.violations(in: mutant)
        let fault = ValueMachine.fault(mutant)
        #expect(violations.isEmpty == (fault == nil), "\(change): \(violations) against \(fault ?? "none")")
        if !violations.isEmpty {
            let named = violations.contains { violation in
                ranks.contains(violation.rank) || actions.contains(violation.action)
                    || actions.contains { violation.reason.contains("'\($0)'") }
            }
            #expect(named, "\(change): \(violations)")
        }
        return violations.isEmpty
    }

    @Test(arguments: subjects) func subjectsAreLegal(subject: Subject) {
        #expect(Verifier.violations(in: subject.schedule) == [])
        for seed in 0..<4 {
            #expect(ValueMachine.fault(subject.schedule, random: SplitMix(state: UInt64(seed))) == nil)
        }
    }

    @Test(arguments: subjects) func deletedAndDuplicatedActionsAreNamed(subject: Subject) {
        let total = subject.schedule.ranks.reduce(0) { $0 + $1.count * $1.count }
        var number = 0
        for (rank, actions) in subject.schedule.ranks.enumerated() {
            for (position, action) in actions.enumerated() {
                var mutant = subject.schedule
                mutant.ranks[rank].remove(at: position)
                #expect(
                    !judge(mutant, "delete '\(action)' of rank \(rank)", touching: [action], ranks: [rank]))
                for copy in 0...actions.count where isChosen(&number, of: total) {
                    mutant = subject.schedule
                    mutant.ranks[rank].insert(action, at: copy)
                    let change = "copy '\(action)' of rank \(rank) to \(copy)"
                    #expect(!judge(mutant, change, touching: [action], ranks: [rank]))
                }
            }
        }
    }

    @Test(arguments: subjects) func rehomedActionsAreNamed(subject: Subject) {
        let count = subject.schedule.ranks.reduce(0) { $0 + $1.count }
        var number = 0
        for (rank, actions) in subject.schedule.ranks.enumerated() {
            for (position, action) in actions.enumerated() {
                for other in subject.schedule.ranks.indices where other != rank {
                    for place in 0...subject.schedule.ranks[other].count where isChosen(&number, of: count * count) {
                        var mutant = subject.schedule
                        mutant.ranks[rank].remove(at: position)
                        mutant.ranks[other].insert(action, at: place)
                        let change = "re-home '\(action)' of rank \(rank) to \(place) of rank \(other)"
                        #expect(!judge(mutant, change, touching: [action], ranks: [rank, other]))
                    }
                }
            }
        }
    }

    @Test(arguments: subjects) func swappedAndMovedActionsAreJudgedByValues(subject: Subject) {
        let total = subject.schedule.ranks.reduce(0) { $0 + $1.count * $1.count }
        var number = 0
        var accepted = 0
        for (rank, actions) in subject.schedule.ranks.enumerated() {
            for first in actions.indices {
                for second in actions.indices where second != first && isChosen(&number, of: total) {
                    var mutant = subject.schedule
                    if first < second {
                        mutant.ranks[rank].swapAt(first, second)
                        let change = "swap \(first) and \(second) of rank \(rank)"
                        let touched = [actions[first], actions[second]]
                        if judge(mutant, change, touching: touched, ranks: [rank]) { accepted += 1 }
                    }
                    mutant = subject.schedule
                    mutant.ranks[rank].insert(mutant.ranks[rank].remove(at: first), at: second)
                    let change = "move \(first) to \(second) of rank \(rank)"
                    if judge(mutant, change, touching: [actions[first]], ranks: [rank]) { accepted += 1 }
                }
            }
        }
        // Lowering leaves freedom: some waits may come later.
        #expect(accepted > 0 || !subject.schedule.isLowered || subject.schedule.ranks.count == 1)
    }

    /// Another micro-batch, chunk, stage, edge or kind in the same place.
    @Test(arguments: subjects) func relabelledActionsAreNamed(subject: Subject) {
        for (rank, actions) in subject.schedule.ranks.enumerated() {
            for (position, action) in actions.enumerated() {
                for other in Self.relabelled(action) where other != action {
                    var mutant = subject.schedule
                    mutant.ranks[rank][position] = other
                    let change = "'\(other)' for '\(action)' of rank \(rank)"
                    #expect(!judge(mutant, change, touching: [action, other], ranks: [rank]))
                }
            }
        }
    }

    private static func relabelled(_ action: Action) -> [Action] {
        guard action.kind.isCompute || action.kind.isMessage else {
            return [Action(.reduceTied), Action(.step), .reduceReplicas(stage: action.stage + 1)]
        }
        var units = [action.unit, action.unit, action.unit]
        units[0].microBatch += 1
        units[1].chunk += 1
        units[2].stage += 1
        if action.microBatch > 0 { units.append(UnitOfWork(stage: action.stage, microBatch: action.microBatch - 1)) }
        var actions = units.map { Action(action.kind, $0, edge: action.edge, recorded: action.isRecorded) }
        let kinds = Action.Kind.allCases.filter { $0.isCompute == action.kind.isCompute && !$0.isGlobal }
        for kind in kinds where kind != .reduceReplicas {
            actions.append(Action(kind, action.unit, edge: action.edge))
            if kind.isMessage { actions.append(Action(kind, action.unit, edge: action.edge + 1)) }
        }
        if action.kind == .forward { actions.append(Action(.forward, action.unit, recorded: !action.isRecorded)) }
        return actions
    }

    // MARK: Legal schedules at random, and delays

    @Test func randomLegalSchedulesAreAcceptedWithAndWithoutCommunication() throws {
        for seed in 100..<250 {
            let schedule = RandomSchedule.compute(seed: UInt64(seed))
            #expect(Verifier.violations(in: schedule) == [], "seed \(seed)")
            #expect(ValueMachine.fault(schedule) == nil, "seed \(seed)")
            let options = LoweringOptions(
                receiveLookAhead: seed % 4, sendWindow: 1 + seed % 3, reducesReplicas: seed % 5 == 0)
            let lowered = try Lowering.lower(schedule, options: options)
            #expect(Verifier.violations(in: lowered) == [], "seed \(seed)")
            #expect(ValueMachine.fault(lowered, random: SplitMix(state: UInt64(seed))) == nil, "seed \(seed)")
        }
    }

    /// Whether a schedule ends, and with what values, does not depend on how long anything takes.
    @Test(arguments: subjects) func delaysNeverChangeAVerdict(subject: Subject) throws {
        var random = SplitMix(state: 7)
        for number in 0..<100 {
            var mutant = subject.schedule
            let rank = random.below(mutant.ranks.count)
            let count = mutant.ranks[rank].count
            if number > 0 { mutant.ranks[rank].swapAt(random.below(count), random.below(count)) }
            let verdict = ValueMachine.fault(mutant) == nil
            for _ in 0..<3 {
                #expect((ValueMachine.fault(mutant, random: SplitMix(state: random.next())) == nil) == verdict)
            }
            var costs = CostModel.uniform(stageCount: mutant.shape.stageCount)
            for stage in costs.stages.indices { costs.stages[stage].forward = Double(random.below(100)) }
            costs.messages.latency = Double(random.below(50))
            #expect(((try? Simulator.simulate(mutant, costs)) != nil) == verdict)
        }
    }
}
