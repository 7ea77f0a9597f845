import Communication
import FaultyRank
import Pipeline
import Testing

/// Whatever a rank does when it fails or hangs, all ranks end, each says what it was doing, and the culprit is named.
@Suite struct FaultTests {
    static let rankCount = 3
    static let deadline = 2.0

    private struct Outcome: Sendable {
        var point: String
        var failure: RankFailure?
        var seconds: Double
    }

    /// Trains with a fault at each kind of action on one rank, all these jobs at the same time: they mostly wait.
    private static func outcomes(
        of fault: Fault, at points: [String] = FaultyExecutor.points, rank: Int, deadline: Double = deadline
    ) throws -> [Outcome] {
        let schedule = try FaultyExecutor.schedule(rankCount: rankCount)
        let release = FaultyExecutor.Release()
        defer { release.open() }
        return try InProcessWorld.run(size: points.count, timeout: 60) { job -> Outcome in
            let clock = ContinuousClock()
            let start = clock.now
            var outcome = Outcome(point: points[job.rank], seconds: 0)
            do {
                _ = try InProcessWorld.run(size: rankCount, eagerLimit: -1, timeout: deadline) { communicator in
                    let executor = FaultyExecutor(
                        communicator, communicator.rank == rank ? fault : nil, at: points[job.rank], release: release)
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
        for outcome in try Self.outcomes(of: .error, rank: rank, deadline: 60) {
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
            #expect(outcome.seconds < 10, words)
        }
    }

    @Test(arguments: 0..<rankCount) func aRankThatHangsAtAnyActionIsFound(rank: Int) throws {
        for outcome in try Self.outcomes(of: .hang, rank: rank) {
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
        let failure = try #require(Self.outcomes(of: .hang, at: ["SEND"], rank: 1)[0].failure)
        let words = failure.postMortem.reports.map(\.text)
        func position(_ text: String, onRank rank: Int) throws -> Int {
            try #require(
                FaultyExecutor.schedule(rankCount: Self.rankCount).ranks[rank].firstIndex { $0.description == text })
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
