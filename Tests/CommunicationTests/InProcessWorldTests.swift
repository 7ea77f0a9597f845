import Communication
import Synchronization
import TestSupport
import Testing

@Suite struct InProcessWorldTests {
    @Test(arguments: [1, 2, 3, 4], [4096, -1])
    func contract(ranks: Int, eagerLimit: Int) throws {
        _ = try InProcessWorld.run(size: ranks, eagerLimit: eagerLimit, timeout: 60) {
            try CommunicationSelfTest.run(on: $0)
        }
    }

    @Test func largeMessages() throws {
        _ = try InProcessWorld.run(size: 2, timeout: 60) {
            try CommunicationSelfTest.run(on: $0, largeByteCount: 64 << 20)
        }
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func contractHoldsWhenMessagesAreLate(seed: UInt64) throws {
        _ = try InProcessWorld.run(size: 3, timeout: 60) {
            try CommunicationSelfTest.run(on: FaultyCommunicator($0, .delay(seed: seed, polls: 5)))
        }
    }

    @Test func resultsComeByRank() throws {
        #expect(try InProcessWorld.run(size: 3) { $0.rank } == [0, 1, 2])
    }

    @Test func threadsHaveLargeStacks() throws {
        @Sendable func depth(_ levels: Int) -> Int {
            withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 16) { frame in
                frame[0] = 1
                return levels == 0 ? 0 : Int(frame[0]) + depth(levels - 1)
            }
        }
        #expect(try InProcessWorld.run(size: 1) { _ in depth(4000) } == [4000])
    }

    struct Broken: Error, CustomStringConvertible { var description: String { "broken on purpose" } }

    /// The old bug of pipeline trainers: one stage throws and the others wait for ever.
    @Test(arguments: [2, 3, 4], 0..<4)
    func anExceptionOnOneRankEndsAll(ranks: Int, thrower: Int) throws {
        guard thrower < ranks else { return }
        let clock = ContinuousClock()
        let start = clock.now
        let failure = #expect(throws: RankFailure.self) {
            _ = try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
                if communicator.rank == thrower { throw Broken() }
                try communicator.barrier()
            }
        }
        #expect(clock.now - start < .seconds(2))
        #expect(failure?.description == "[rank \(thrower)/\(ranks)] broken on purpose")
        #expect(failure?.postMortem.cause == .failed([thrower]) && failure?.strandedRanks == [])
    }

    @Test func abortReachesAWaitingRankWithinMilliseconds() throws {
        let aborted = Atomic<UInt64>(0)
        let woken = Atomic<UInt64>(0)
        let clock = ContinuousClock()
        let origin = clock.now
        @Sendable func now() -> UInt64 { UInt64((clock.now - origin) / .microseconds(1)) }
        let failure = #expect(throws: RankFailure.self) {
            _ = try InProcessWorld.run(size: 2, timeout: 60) { communicator in
                if communicator.rank == 0 {
                    var word = 0
                    // Rank 1 sleeps in its wait by the time of the abort.
                    withUnsafeMutableBytes(of: &word) { buffer in
                        _ = try? communicator.receive(into: buffer, from: 0, tag: 0).wait(timeout: 0.1)
                    }
                    aborted.store(now(), ordering: .relaxed)
                    communicator.abort(exitCode: 3, because: Broken())
                } else {
                    do {
                        try communicator.barrier()
                    } catch CommunicationError.interrupted(let message, let seconds, let rank) {
                        woken.store(now(), ordering: .relaxed)
                        #expect(rank == 0 && message.peer == 0 && seconds > 0.05)
                    }
                }
            }
        }
        let delay = Int64(woken.load(ordering: .relaxed)) - Int64(aborted.load(ordering: .relaxed))
        #expect(failure?.rank == 0 && failure?.underlying is Broken)
        // 400 µs of sleep at most; the rest is for a busy machine.
        #expect(delay < 50_000, "woken \(delay) µs after the abort")
    }

    @Test func aRankThatEndedIsAnErrorToThoseThatWaitForIt() throws {
        let failure = #expect(throws: RankFailure.self) {
            _ = try InProcessWorld.run(size: 2, timeout: 60) { communicator in
                if communicator.rank == 1 { try communicator.barrier() }
            }
        }
        guard case .peerClosed(let message)? = failure?.underlying as? CommunicationError else {
            Issue.record("got \(String(describing: failure))")
            return
        }
        #expect(message.peer == 0 && message.rank == 1)
    }

    @Test func messagesOfARankThatEndedStillArrive() throws {
        _ = try InProcessWorld.run(size: 2, timeout: 60) { communicator in
            var word = 42
            try withUnsafeMutableBytes(of: &word) { buffer in
                if communicator.rank == 0 {
                    try communicator.send(UnsafeRawBufferPointer(buffer), to: 1, tag: 0).wait()
                } else {
                    communicator.timeout = 0.05
                    _ = try? communicator.receive(into: buffer, from: 1, tag: 9).wait()
                    try communicator.receive(into: buffer, from: 0, tag: 0).wait()
                }
            }
        }
    }

    @Test func aRequestNobodyWaitedForIsReportedWithItsBirthplace() throws {
        let line = #line + 3
        @Sendable func dropOne(_ communicator: InProcessCommunicator) throws {
            var word = 0
            try withUnsafeMutableBytes(of: &word) { _ = try communicator.receive(into: $0, from: 0, tag: 5) }
        }
        let failure = #expect(throws: CommunicationError.self) {
            _ = try InProcessWorld.run(size: 1, dropOne)
        }
        guard case .droppedRequests(let rank, let messages)? = failure else {
            Issue.record("got \(String(describing: failure))")
            return
        }
        #expect(rank == 0 && messages.count == 1)
        #expect(messages[0].file == "CommunicationTests/InProcessWorldTests.swift" && messages[0].line == line)
    }

    /// Each message of the program fails once; every time all ranks end, and the error names the culprit.
    @Test(arguments: 0..<3)
    func everySendAndReceiveMayFail(rank: Int) throws {
        for receiving in [false, true] {
            var number = 1
            while true {
                let n = number
                let count = Atomic(0)
                do {
                    _ = try InProcessWorld.run(size: 3, eagerLimit: -1, timeout: 60) { base in
                        guard base.rank == rank else { return try Self.ring(base) }
                        let faulty = FaultyCommunicator(base, receiving ? .failReceive(n) : .failSend(n))
                        try Self.ring(faulty)
                        count.store(receiving ? faulty.receives : faulty.sends, ordering: .relaxed)
                    }
                } catch let failure as RankFailure {
                    guard case .injected? = failure.underlying as? CommunicationError else { throw failure }
                    #expect(failure.rank == rank)
                    number += 1
                    continue
                }
                #expect(count.load(ordering: .relaxed) == number - 1)
                #expect(number > 5)
                break
            }
        }
    }

    private static func ring(_ communicator: any Communicator) throws {
        var (word, received) = (communicator.rank, -1)
        for tag in 0..<3 {
            try withUnsafeMutableBytes(of: &word) { outgoing in
                try withUnsafeMutableBytes(of: &received) { incoming in
                    let next = (communicator.rank + 1) % communicator.size
                    let previous = (communicator.rank + communicator.size - 1) % communicator.size
                    let receive = try communicator.receive(into: incoming, from: previous, tag: tag)
                    let send = try communicator.send(UnsafeRawBufferPointer(outgoing), to: next, tag: tag)
                    try Request.waitAll([receive, send])
                }
            }
            word = received
        }
        try communicator.barrier()
        _ = try communicator.sum(Double(word))
    }
}
