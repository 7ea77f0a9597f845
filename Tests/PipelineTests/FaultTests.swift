import Communication
import Glibc
import Pipeline
import Synchronization
import Testing

/// An executor that fails at the first call of one kind, around another. Its reductions and its step meet the other
/// ranks, as those of a training job do.
private final class FaultyExecutor: StageExecutor {
    enum Fault: String, CaseIterable, Sendable { case throwing, hanging }

    /// Kinds of action, in the words of schedules; `received` is the second half of a receive.
    static let points = [
        "F", "R", "B", "I", "W", "RECV", "received", "SEND", "WAIT", "REDUCE_DP", "REDUCE_TIED", "STEP",
    ]

    struct Injected: Error {}

    /// Lets hanging ranks go once the test is over.
    final class Release: Sendable {
        let isOpen = Atomic(false)
    }

    private let base: ChecksumExecutor
    private let communicator: any Communicator
    private let point: String
    private let fault: Fault?
    private let release: Release

    /// - Parameter fault: nil on ranks that are well.
    init(
        _ schedule: Schedule, _ communicator: any Communicator, _ fault: Fault?, at point: String, _ release: Release
    ) {
        base = ChecksumExecutor(schedule, rank: communicator.rank)
        self.communicator = communicator
        self.point = point
        self.fault = fault
        self.release = release
    }

    private func pass(_ point: String) throws {
        guard point == self.point, let fault else { return }
        if fault == .throwing { throw Injected() }
        while !release.isOpen.load(ordering: .relaxed) { usleep(10_000) }
    }

    /// `FaultTests.schedule` has I and W in place of B for odd micro-batches.
    private func isWhole(_ unit: UnitOfWork) -> Bool { unit.microBatch % 2 == 0 }

    func forward(_ unit: UnitOfWork, recorded: Bool) throws {
        try pass("F")
        try base.forward(unit, recorded: recorded)
    }
    func recompute(_ unit: UnitOfWork) throws {
        try pass("R")
        try base.recompute(unit)
    }
    func inputGradient(_ unit: UnitOfWork) throws {
        try pass(isWhole(unit) ? "B" : "I")
        try base.inputGradient(unit)
    }
    func weightGradient(_ unit: UnitOfWork) throws {
        if !isWhole(unit) { try pass("W") }
        try base.weightGradient(unit)
    }
    func receiveBuffer(_ message: StageMessage) throws -> UnsafeMutableRawBufferPointer {
        try pass("RECV")
        return try base.receiveBuffer(message)
    }
    func received(_ message: StageMessage) throws {
        try pass("received")
        try base.received(message)
    }
    func sendBuffer(_ message: StageMessage) throws -> UnsafeRawBufferPointer {
        try pass("SEND")
        return try base.sendBuffer(message)
    }
    func sent(_ message: StageMessage) throws {
        try pass("WAIT")
        try base.sent(message)
    }
    func reduceReplicas(stage: Int) throws { try pass("REDUCE_DP") }
    func reduceTied() throws {
        try pass("REDUCE_TIED")
        try communicator.barrier()
    }
    func step() throws {
        try pass("STEP")
        _ = try communicator.sum(1)
        try base.step()
    }
}

/// Whatever a rank does when it fails or hangs, all ranks end, each says what it was doing, and the culprit is named.
@Suite struct FaultTests {
    static let rankCount = 3
    static let deadline = 2.0

    /// Contains every kind of action on every rank.
    static func schedule() throws -> Schedule {
        let request = ScheduleRequest(
            stageCount: rankCount, microBatchCount: 4, rematerialization: .always)
        var compute = try ScheduleCatalog.training("1f1b", request)
        compute.ranks = compute.ranks.map { actions in
            actions.flatMap { action in
                action.kind == .backward && action.microBatch % 2 == 1
                    ? [Action(.inputGradient, action.unit), Action(.weightGradient, action.unit)] : [action]
            }
        }
        return try Lowering.lower(compute, options: LoweringOptions(reducesReplicas: true))
    }

    private struct Outcome: Sendable {
        var point: String
        var failure: RankFailure?
        var seconds: Double
    }

    /// Trains with a fault at each kind of action on one rank, all these jobs at the same time: they mostly wait.
    private static func outcomes(
        of fault: FaultyExecutor.Fault, at points: [String] = FaultyExecutor.points, rank: Int
    ) throws -> [Outcome] {
        let schedule = try schedule()
        let release = FaultyExecutor.Release()
        defer { release.isOpen.store(true, ordering: .relaxed) }
        return try InProcessWorld.run(size: points.count, timeout: 60) { job -> Outcome in
            let clock = ContinuousClock()
            let start = clock.now
            var outcome = Outcome(point: points[job.rank], seconds: 0)
            do {
                _ = try InProcessWorld.run(size: rankCount, eagerLimit: -1, timeout: deadline) { communicator in
                    let executor = FaultyExecutor(
                        schedule, communicator, communicator.rank == rank ? fault : nil, at: points[job.rank], release)
                    let interpreter = try Interpreter(schedule, communicator: communicator)
                    for _ in 0..<2 { _ = try interpreter.run(executor) }
                }
            } catch let failure as RankFailure {
                outcome.failure = failure
            }
            outcome.seconds = (clock.now - start) / .seconds(1)
            return outcome
        }
    }

    @Test(arguments: 0..<rankCount) func anErrorAtAnyActionEndsAllRanks(rank: Int) throws {
        for outcome in try Self.outcomes(of: .throwing, rank: rank) {
            let failure = try #require(outcome.failure, "\(outcome.point): no error")
            let words = Comment(rawValue: "\(outcome.point): \(failure.postMortem)")
            #expect((failure.underlying as? ActionFailure)?.underlying is FaultyExecutor.Injected, words)
            #expect(failure.rank == rank && failure.strandedRanks.isEmpty, words)
            #expect(failure.postMortem.cause == .failed([rank]), words)
            #expect(failure.postMortem.silentRanks.isEmpty, words)
            for report in failure.postMortem.reports {
                #expect(report.text.hasPrefix("[rank \(report.rank)/\(Self.rankCount)"), words)
                #expect(report.origin == rank, words)
            }
            #expect(failure.postMortem.conclusion == "cause: rank \(rank) failed as reported above", words)
            #expect(outcome.seconds < Self.deadline, words)
        }
    }

    @Test(arguments: 0..<rankCount) func aRankThatHangsAtAnyActionIsFound(rank: Int) throws {
        for outcome in try Self.outcomes(of: .hanging, rank: rank) {
            let failure = try #require(outcome.failure, "\(outcome.point): no error")
            let words = Comment(rawValue: "\(outcome.point): \(failure.postMortem)")
            #expect(failure.postMortem.cause == .silent([rank]), words)
            #expect(failure.postMortem.silentRanks == [rank] && failure.strandedRanks == [rank], words)
            #expect(failure.postMortem.conclusion.hasPrefix("cause: rank \(rank) did not report within 1.0 s"), words)
            for report in failure.postMortem.reports {
                #expect(report.text.hasPrefix("[rank \(report.rank)/\(Self.rankCount)"), words)
                #expect(report.state == .waiting && report.text.contains("at position"), words)
            }
            // The deadline, the time to report, and what a busy machine adds.
            #expect(outcome.seconds > Self.deadline && outcome.seconds < Self.deadline + 6, words)
        }
    }

    /// The words of a rank that waits for a message: its own action, and the one that it needs of the other.
    @Test func aWaitingRankNamesTheActionItNeeds() throws {
        let failure = try #require(Self.outcomes(of: .hanging, at: ["SEND"], rank: 1)[0].failure)
        let words = failure.postMortem.reports.map(\.text)
        func position(_ text: String, onRank rank: Int) throws -> Int {
            try #require(Self.schedule().ranks[rank].firstIndex { $0.description == text })
        }
        let first = try position("B s0 m0 c0", onRank: 0)
        let last = try position("F s2 m0 c0 unrecorded", onRank: 2)
        let beginnings = [
            "[rank 0/3, stage 0] 'B s0 m0 c0' at position \(first) needs 'SEND_G s1 m0 c0' of rank 1, tag ",
            "[rank 2/3, stage 2] 'F s2 m0 c0 unrecorded' at position \(last) needs 'SEND_A s1 m0 c0' of rank 1, tag ",
        ]
        #expect(words.count == 2 && zip(words, beginnings).allSatisfy { $0.hasPrefix($1) }, "\(words)")
        #expect(
            words.allSatisfy { $0.contains(" s when rank ") != $0.contains("did not complete within 2.") }, "\(words)")
    }
}
