import Communication
import Glibc
import Synchronization
import Testing

/// Who is blamed when a job ends badly. Errors of ranks are in InProcessWorldTests, those of actions in FaultTests.
@Suite struct PostMortemTests {
    /// Runs a job whose deadline is short, and returns what came of it.
    private func postMortem(
        ranks: Int, _ body: @escaping @Sendable (InProcessCommunicator) throws -> Void
    ) throws -> PostMortem {
        let failure = #expect(throws: RankFailure.self) {
            _ = try InProcessWorld.run(size: ranks, timeout: 1, body)
        }
        return try #require(failure).postMortem
    }

    /// Lets a rank that hangs go once the test is over.
    private final class Flag: Sendable { let value = Atomic(false) }

    private static func receive(_ communicator: any Communicator, from peer: Int) throws {
        var word = 0
        try withUnsafeMutableBytes(of: &word) { try communicator.receive(into: $0, from: peer, tag: 3).wait() }
    }

    /// Rank 3 hangs and only rank 2 waits for it, but every deadline expires.
    @Test func aChainOfWaitsLeadsToTheRankThatHangs() throws {
        let isOver = Flag()
        defer { isOver.value.store(true, ordering: .relaxed) }
        let result = try postMortem(ranks: 4) { communicator in
            if communicator.rank == 3 {
                while !isOver.value.load(ordering: .relaxed) { usleep(1000) }
            } else {
                // Rank 0 is the first whose deadline expires.
                usleep(useconds_t(communicator.rank) * 100_000)
                try Self.receive(communicator, from: communicator.rank + 1)
            }
        }
        #expect(result.cause == .silent([3]) && result.silentRanks == [3])
        #expect(
            result.conclusion
                == "cause: rank 3 did not report within 0.5 s, so it has died, hangs, or computes longer than the deadline (rank 0 waits for rank 1, rank 1 waits for rank 2, rank 2 waits for rank 3)"
        )
        let lines = result.description.split(separator: "\n")
        #expect(lines.count == 4 && lines[3] == result.conclusion)
        #expect(lines[1].hasPrefix("[rank 1/4] rank 1: receive from rank 2, tag 3, 8 bytes"), "\(lines[1])")
        #expect(lines[1].hasSuffix("s when rank 0 ended the job"), "\(lines[1])")
    }

    @Test func ranksThatWaitForEachOtherAreADeadlock() throws {
        let result = try postMortem(ranks: 3) { communicator in
            try Self.receive(communicator, from: [1, 2, 1][communicator.rank])
        }
        #expect(result.cause == .deadlock([1, 2]) || result.cause == .deadlock([2, 1]))
        #expect(
            result.conclusion.hasSuffix("wait for each other in a circle; their lists of actions do not fit together"))
    }

    /// Computes beyond the deadline, but looks at the transport now and then.
    @Test func aSlowRankIsNotADeadOne() throws {
        let result = try postMortem(ranks: 2) { communicator in
            if communicator.rank == 0 { try Self.receive(communicator, from: 1) }
            while true {
                try communicator.poke()
                usleep(1000)
            }
        }
        #expect(result.cause == .slow(1) && result.silentRanks.isEmpty)
        #expect(
            result.conclusion
                == "cause: rank 1 is alive, but took longer than the deadline (rank 0 waits for rank 1)")
    }

    @Test func aRankThatLeavesWithoutAnsweringIsNamed() throws {
        let result = try postMortem(ranks: 2) { communicator in
            if communicator.rank == 0 { try Self.receive(communicator, from: 1) }
        }
        #expect(result.cause == .ended(1))
        #expect(result.conclusion == "cause: rank 1 ended without answering (rank 0 waits for rank 1)")
    }

    /// No message is missing, and yet the job does not end.
    @Test func aRankThatNeverEndsIsFoundByThoseThatHave() throws {
        let isOver = Flag()
        defer { isOver.value.store(true, ordering: .relaxed) }
        let clock = ContinuousClock()
        let start = clock.now
        let result = try postMortem(ranks: 3) { communicator in
            while communicator.rank == 1 && !isOver.value.load(ordering: .relaxed) { usleep(1000) }
        }
        #expect(result.cause == .silent([1]) && clock.now - start < .seconds(10))
        #expect(result.description.contains("had ended, but rank 1 had not 1."), "\(result)")
    }

    @Test func severalErrorsAreAllNamed() throws {
        struct Broken: Error {}
        let result = try postMortem(ranks: 3) { communicator in
            if communicator.rank != 1 { throw Broken() }
            try communicator.barrier()
        }
        #expect(result.cause == .failed([0, 2]))
        #expect(result.conclusion == "cause: ranks 0 and 2 failed as reported above")
    }
}
