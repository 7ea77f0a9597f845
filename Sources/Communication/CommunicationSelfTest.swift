/// The contract of ``Communicator`` as a program that any transport can be put through, on any number of ranks.
public enum CommunicationSelfTest {
    public struct Failure: Error, CustomStringConvertible {
        public let scenario: String
        public let rank: Int
        public let reason: String

        public var description: String { "communication self-test, scenario '\(scenario)', rank \(rank): \(reason)" }
    }

    /// Runs every scenario. Collective: all ranks call it. Leaves no message behind.
    /// - Parameter largeByteCount: the length of the messages that test large transfers.
    /// - Throws: ``Failure``; the job should then be aborted, as other ranks may wait for this one.
    public static func run(on communicator: any Communicator, largeByteCount: Int = 8 << 20) throws {
        var trial = Trial(communicator, largeByteCount: largeByteCount)
        try trial.scenario("order by tag") { try $0.orderByTag() }
        try trial.scenario("order within a tag") { try $0.orderWithinTag() }
        try trial.scenario("many outstanding") { try $0.manyOutstanding() }
        try trial.scenario("empty messages") { try $0.emptyMessages() }
        try trial.scenario("large messages") { try $0.largeMessages() }
        try trial.scenario("wait for any") { try $0.waitForAny() }
        try trial.scenario("wrong lengths") { try $0.wrongLengths() }
        try trial.scenario("open lengths") { try $0.openLengths() }
        try trial.scenario("deadline") { try $0.deadline() }
        try trial.scenario("invalid arguments") { try $0.invalidArguments() }
        try trial.scenario("barrier") { try $0.barrier() }
        try trial.scenario("broadcast") { try $0.broadcast() }
        try trial.scenario("gather") { try $0.gather() }
        try trial.scenario("sum in rank order") { try $0.sum() }
        try trial.scenario("agreement") { try $0.agreement() }
        try trial.scenario("subgroup") { try $0.subgroup() }
    }
}

private struct Trial {
    let communicator: any Communicator
    let largeByteCount: Int
    var name = ""

    var rank: Int { communicator.rank }
    var size: Int { communicator.size }

    init(_ communicator: any Communicator, largeByteCount: Int) {
        self.communicator = communicator
        self.largeByteCount = largeByteCount
    }

    mutating func scenario(_ name: String, _ body: (Trial) throws -> Void) throws {
        self.name = name
        do {
            try body(self)
        } catch let failure as CommunicationSelfTest.Failure {
            throw failure
        } catch {
            throw failed("\(error)")
        }
    }

    private func failed(_ reason: String) -> CommunicationSelfTest.Failure {
        CommunicationSelfTest.Failure(scenario: name, rank: rank, reason: reason)
    }

    private func check(_ condition: Bool, _ reason: @autoclosure () -> String) throws {
        if !condition { throw failed(reason()) }
    }

    // Messages go from every rank to every rank, itself included, through buffers that outlive them.

    func orderByTag() throws {
        let tagCount = 20
        let outgoing = Buffer(Int.self, size * tagCount) { 1_000_000 * rank + $0 }
        let incoming = Buffer(Int.self, size * tagCount) { _ in -1 }
        var requests: [Request] = []
        for peer in 0..<size {
            for tag in 0..<tagCount {
                requests.append(try communicator.send(outgoing.bytes(peer * tagCount + tag), to: peer, tag: tag))
            }
        }
        for peer in 0..<size {
            for tag in (0..<tagCount).reversed() {
                let slot = incoming.mutableBytes(peer * tagCount + tag)
                requests.append(try communicator.receive(into: slot, from: peer, tag: tag))
            }
        }
        try Request.waitAll(requests)
        for peer in 0..<size {
            for tag in 0..<tagCount {
                let expected = 1_000_000 * peer + rank * tagCount + tag
                let got = incoming[peer * tagCount + tag]
                try check(got == expected, "from rank \(peer), tag \(tag): got \(got); expected \(expected)")
            }
        }
    }

    func orderWithinTag() throws {
        let count = 50
        let outgoing = Buffer(Int.self, count) { 1000 * rank + $0 }
        let incoming = Buffer(Int.self, size * count) { _ in -1 }
        var sent: [Request] = []
        for index in 0..<count {
            for peer in 0..<size { sent.append(try communicator.send(outgoing.bytes(index), to: peer, tag: 7)) }
        }
        for peer in 0..<size {
            for index in 0..<count {
                try communicator.receive(into: incoming.mutableBytes(peer * count + index), from: peer, tag: 7).wait()
                let got = incoming[peer * count + index]
                try check(got == 1000 * peer + index, "message \(index) from rank \(peer): got \(got)")
            }
        }
        try Request.waitAll(sent)
    }

    func manyOutstanding() throws {
        let count = 1000
        let next = (rank + 1) % size
        let previous = (rank + size - 1) % size
        let outgoing = Buffer(Int.self, count) { rank ^ ($0 << 8) }
        let incoming = Buffer(Int.self, count) { _ in -1 }
        var requests: [Request] = []
        for tag in 0..<count {
            requests.append(try communicator.receive(into: incoming.mutableBytes(tag), from: previous, tag: tag))
        }
        for tag in (0..<count).reversed() {
            requests.append(try communicator.send(outgoing.bytes(tag), to: next, tag: tag))
        }
        try communicator.poke()
        try Request.waitAll(requests)
        for tag in 0..<count {
            try check(incoming[tag] == previous ^ (tag << 8), "tag \(tag): got \(incoming[tag])")
        }
    }

    func emptyMessages() throws {
        let none = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        var requests: [Request] = []
        for peer in 0..<size {
            requests.append(try communicator.receive(into: none, from: peer, tag: 0))
            requests.append(try communicator.send(UnsafeRawBufferPointer(none), to: peer, tag: 0))
        }
        try Request.waitAll(requests)
    }

    func largeMessages() throws {
        let count = largeByteCount / 8 + 1
        let next = (rank + 1) % size
        let previous = (rank + size - 1) % size
        let outgoing = Buffer(Int.self, count) { ($0 &* 0x9E37_79B9) ^ rank }
        let incoming = Buffer(Int.self, count) { _ in -1 }
        let received = try communicator.receive(
            into: UnsafeMutableRawBufferPointer(incoming.elements), from: previous, tag: 3)
        let sent = try communicator.send(UnsafeRawBufferPointer(outgoing.elements), to: next, tag: 3)
        try Request.waitAll([received, sent])
        let wrong = (0..<count).first { incoming[$0] != ($0 &* 0x9E37_79B9) ^ previous }
        try check(wrong == nil, "\(count) words from rank \(previous): word \(wrong ?? 0) is wrong")
    }

    func waitForAny() throws {
        let outgoing = Buffer(Int.self, 2) { $0 }
        let incoming = Buffer(Int.self, 2) { _ in -1 }
        let late = try communicator.receive(into: incoming.mutableBytes(0), from: rank, tag: 0)
        let early = try communicator.receive(into: incoming.mutableBytes(1), from: rank, tag: 1)
        let first = try communicator.send(outgoing.bytes(1), to: rank, tag: 1)
        let index = try Request.waitAny([late, early])
        try check(index == 1, "request \(index) completed first; expected 1")
        let second = try communicator.send(outgoing.bytes(0), to: rank, tag: 0)
        try Request.waitAll([late, first, second])
        try check(incoming[0] == 0 && incoming[1] == 1, "got \(incoming[0]), \(incoming[1]); expected 0, 1")
    }

    func wrongLengths() throws {
        let outgoing = Buffer(Int.self, 4) { $0 }
        let incoming = Buffer(Int.self, 4) { _ in -1 }
        for (sentCount, expectedCount) in [(1, 2), (3, 2)] {
            let sent = try communicator.send(
                UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(outgoing.elements)[0..<sentCount * 8]),
                to: rank, tag: 5)
            let slot = UnsafeMutableRawBufferPointer(
                rebasing: UnsafeMutableRawBufferPointer(incoming.elements)[0..<expectedCount * 8])
            do {
                try communicator.receive(into: slot, from: rank, tag: 5).wait()
                throw failed("\(sentCount * 8) bytes were accepted where \(expectedCount * 8) were expected")
            } catch CommunicationError.lengthMismatch(let message, let received) {
                try check(message.byteCount == expectedCount * 8, "the error names \(message.byteCount) expected bytes")
                try check(
                    received == nil || received == sentCount * 8, "the error names \(received ?? -1) received bytes")
            }
            try sent.wait()
        }
    }

    /// Messages whose length the receiver does not know: empty, short, and as long as the buffer, among exact ones of
    /// the same tag; then one that is too long.
    func openLengths() throws {
        let capacity = 10_007
        let counts = [3, 0, capacity, 1]
        let next = (rank + 1) % size
        let previous = (rank + size - 1) % size
        let outgoing = Buffer(Int.self, capacity) { $0 ^ (rank << 20) }
        let incoming = Buffer(Int.self, capacity) { _ in -1 }
        let exact = Buffer(Int.self, 1) { _ in -1 }
        func prefix(_ count: Int) -> UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(outgoing.elements)[0..<count * 8])
        }
        for count in counts {
            let sent = try communicator.send(prefix(count), to: next, tag: 8)
            let strict = try communicator.send(prefix(1), to: next, tag: 8)
            incoming.elements.update(repeating: -1)
            let whole = UnsafeMutableRawBufferPointer(incoming.elements)
            let open = try communicator.receive(upTo: whole, from: previous, tag: 8)
            let last = try communicator.receive(into: exact.mutableBytes(0), from: previous, tag: 8)
            try Request.waitAll([sent, strict, open, last])
            try check(
                open.receivedByteCount == count * 8 && last.receivedByteCount == 8,
                "got \(open.receivedByteCount) and \(last.receivedByteCount) bytes; expected \(count * 8) and 8")
            let wrong = (0..<capacity).first { incoming[$0] != ($0 < count ? $0 ^ (previous << 20) : -1) }
            try check(wrong == nil, "\(count) words from rank \(previous): word \(wrong ?? 0) is wrong")
        }
        let sent = try communicator.send(prefix(2), to: rank, tag: 8)
        do {
            try communicator.receive(upTo: exact.mutableBytes(0), from: rank, tag: 8).wait()
            throw failed("16 bytes were accepted where at most 8 were expected")
        } catch CommunicationError.lengthMismatch {}
        try sent.wait()
    }

    func deadline() throws {
        let incoming = Buffer(Int.self, 1) { _ in -1 }
        do {
            try communicator.receive(into: incoming.mutableBytes(0), from: rank, tag: 6).wait(timeout: 0.02)
            throw failed("a receive without a send completed")
        } catch CommunicationError.timedOut(let message, let seconds) {
            try check(message.tag == 6 && seconds >= 0.02 && seconds < 2, "the error says \(message), \(seconds) s")
        }
    }

    func invalidArguments() throws {
        let none = UnsafeRawBufferPointer(start: nil, count: 0)
        for peer in [-1, size] {
            do {
                _ = try communicator.send(none, to: peer, tag: 0)
                throw failed("rank \(peer) was accepted as a peer")
            } catch CommunicationError.invalidPeer {}
        }
        for tag in [-1, communicator.largestTag + 1] {
            do {
                _ = try communicator.send(none, to: 0, tag: tag)
                throw failed("tag \(tag) was accepted")
            } catch CommunicationError.invalidTag {}
        }
    }

    func barrier() throws {
        // Each rank, in turn, tells the others after it entered the barrier late; none may have left before.
        for late in 0..<size {
            let flag = Buffer(Int.self, 1) { _ in rank }
            let seen = Buffer(Int.self, 1) { _ in -1 }
            var requests: [Request] = []
            if rank == late {
                for peer in 0..<size { requests.append(try communicator.send(flag.bytes(0), to: peer, tag: 9)) }
            }
            let notice = try communicator.receive(into: seen.mutableBytes(0), from: late, tag: 9)
            try communicator.barrier()
            try Request.waitAll(requests + [notice])
            try check(seen[0] == late, "got \(seen[0]) from rank \(late)")
        }
        for _ in 0..<20 { try communicator.barrier() }
    }

    func broadcast() throws {
        for root in 0..<size {
            for count in [0, 1, 1023, 100_003] {
                let values = Buffer(Int.self, count) { rank == root ? $0 ^ root : -1 }
                try communicator.broadcast(UnsafeMutableRawBufferPointer(values.elements), root: root)
                let wrong = (0..<count).first { values[$0] != $0 ^ root }
                try check(wrong == nil, "root \(root), \(count) words: word \(wrong ?? 0) is wrong")
            }
        }
    }

    func gather() throws {
        func blob(_ rank: Int) -> [UInt8] { (0..<(rank * 7) % 23).map { UInt8(truncatingIfNeeded: $0 * 3 + rank) } }
        let expected = (0..<size).map(blob)
        for root in 0..<size {
            let parts = try communicator.gather(blob(rank), root: root)
            try check(parts == (rank == root ? expected : nil), "gather to \(root) got \(String(describing: parts))")
        }
        let all = try communicator.allGather(blob(rank))
        try check(all == expected, "allGather got \(all)")
        let greatest = try communicator.maximum(Double(-rank))
        try check(greatest == 0, "maximum is \(greatest); expected 0")
        let poisoned = try communicator.maximum(rank == size - 1 ? .nan : 1)
        try check(poisoned.isNaN, "maximum lost a NaN: \(poisoned)")
        let some = try communicator.any(rank == size - 1)
        let none = try communicator.any(false)
        try check(some && !none, "any got \(some), \(none); expected true, false")
    }

    /// The values differ in magnitude, so that another order of summation gives other bits.
    private func value(_ rank: Int, _ index: Int) -> Double {
        var bits = UInt64(rank) &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(index) &* 0xBF58_476D_1CE4_E5B9 &+ 1
        bits ^= bits >> 31
        bits = bits &* 0x94D0_49BB_1331_11EB
        bits ^= bits >> 29
        let unit = Double(bits >> 11) * 0x1p-53 - 0.5
        return unit * Double(1 << (bits & 15))
    }

    func sum() throws {
        for count in [0, 1, 7, 8000, 100_003] {
            let singles = Buffer(Float.self, count) { Float(value(rank, $0)) }
            let doubles = Buffer(Double.self, count) { value(rank, $0) }
            try communicator.sum(singles.elements)
            try communicator.sum(doubles.elements)
            for index in 0..<count {
                var single = Float(value(0, index))
                var double = value(0, index)
                for peer in 1..<max(1, size) where peer < size {
                    single += Float(value(peer, index))
                    double += value(peer, index)
                }
                try check(
                    singles[index].bitPattern == single.bitPattern && doubles[index].bitPattern == double.bitPattern,
                    "element \(index) of \(count): got \(singles[index]), \(doubles[index]); expected \(single), \(double)"
                )
            }
        }
        let total = try communicator.sum(Double(rank + 1))
        try check(total == Double(size * (size + 1) / 2), "the sum of rank numbers is \(total)")
    }

    func agreement() throws {
        try communicator.checkAgreement(on: "the self-test", "same")
        guard size > 1 else { return }
        do {
            try communicator.checkAgreement(on: "the self-test", rank == 1 ? "odd" : "same")
            throw failed("a disagreement went unnoticed")
        } catch CommunicationError.disagreement(_, let rank, let value, _) {
            try check(rank == 1 && value == "odd", "the disagreement names rank \(rank), '\(value)'")
        }
    }

    func subgroup() throws {
        // Even and odd ranks, each in descending order.
        let members = (0..<size).filter { $0 % 2 == rank % 2 }
        let group = SubgroupCommunicator(communicator, ranks: members.reversed())
        let total = try group.sum(Double(rank))
        let expected = Double(members.reduce(0, +))
        try check(total == expected, "the sum over \(members) is \(total); expected \(expected)")
        let ranks = try group.allGather([UInt8(truncatingIfNeeded: rank)])
        let reversed = members.reversed().map { [UInt8(truncatingIfNeeded: $0)] }
        try check(ranks == reversed, "the group's ranks are \(ranks); expected \(reversed)")
        let word = Buffer(Int.self, 1) { _ in rank }
        let room = Buffer(Int.self, 2) { _ in -1 }
        let open = try group.receive(
            upTo: UnsafeMutableRawBufferPointer(room.elements), from: (group.rank + 1) % group.size, tag: 2)
        let sent = try group.send(word.bytes(0), to: (group.rank + group.size - 1) % group.size, tag: 2)
        try Request.waitAll([open, sent])
        let neighbour = members.reversed()[(group.rank + 1) % group.size]
        try check(
            open.receivedByteCount == 8 && room[0] == neighbour && room[1] == -1,
            "got \(open.receivedByteCount) bytes, \(room[0]); expected 8 bytes, \(neighbour)")
    }
}

/// Memory that stays where it is while messages are under way.
private final class Buffer<Element: BitwiseCopyable> {
    let elements: UnsafeMutableBufferPointer<Element>

    init(_: Element.Type, _ count: Int, _ element: (Int) -> Element) {
        elements = .allocate(capacity: count)
        for index in 0..<count { elements.initializeElement(at: index, to: element(index)) }
    }

    deinit { elements.deallocate() }

    subscript(index: Int) -> Element { elements[index] }

    func mutableBytes(_ index: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(UnsafeMutableBufferPointer(rebasing: elements[index...index]))
    }

    func bytes(_ index: Int) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(mutableBytes(index)) }
}
