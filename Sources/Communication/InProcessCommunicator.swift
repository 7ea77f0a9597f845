import Glibc
import Synchronization

/// A rank of an ``InProcessWorld``: the same contract as MPI between the threads of one process.
///
/// Each rank has a mailbox of unmatched messages addressed to it, sends and receives alike, queued by (source, tag,
/// channel). Whoever finds its counterpart waiting copies the bytes straight from buffer to buffer. A send of at
/// most `eagerLimit` bytes that finds no receive is copied aside and completes at once; a longer one completes
/// when it is received, as in MPI.
public final class InProcessCommunicator: Communicator {
    public let rank: Int
    public let policy: WaitPolicy
    private let world: InProcessWorld

    init(world: InProcessWorld, rank: Int, policy: WaitPolicy) {
        self.world = world
        self.rank = rank
        self.policy = policy
    }

    public var size: Int { world.size }
    public var localCoreCount: Int { world.coreCount }
    public var localRank: Int { rank }
    public var localSize: Int { world.size }
    public var largestTag: Int { Int(Int32.max) }

    public func start(_ message: Message, at buffer: UnsafeMutableRawPointer?) throws(CommunicationError) -> Request {
        try poke()
        let transfer = Transfer(message, buffer, world)
        try world.post(transfer)
        return Request(message, operation: transfer, policy: policy)
    }

    public func poke() throws(CommunicationError) { try world.checkAborted() }

    public func abort(exitCode: Int32, because error: any Error) {
        world.abort(rank: rank, exitCode: exitCode, because: error)
    }
}

/// One side of a message. Two threads meet here: its own, and that of the peer that matches it.
final class Transfer: PendingOperation, @unchecked Sendable {
    // unmatched → matched (some thread is copying) → done, or unmatched → failed. Only the thread that removes a
    // transfer from its mailbox moves it on; `failure` is written before `failed` is stored, and
    // `receivedByteCount` before `done`.
    enum State: UInt8, AtomicRepresentable { case unmatched, matched, done, failed }

    let message: Message
    private(set) var buffer: UnsafeMutableRawPointer?
    private var ownsBuffer = false
    private unowned let world: InProcessWorld
    private let state = Atomic(State.unmatched)
    private var failure: CommunicationError?
    private(set) var receivedByteCount = 0

    init(_ message: Message, _ buffer: UnsafeMutableRawPointer?, _ world: InProcessWorld) {
        self.message = message
        self.buffer = buffer
        self.world = world
    }

    deinit { if ownsBuffer { buffer?.deallocate() } }

    var key: Mailbox.Key {
        let source = message.direction == .send ? message.rank : message.peer
        return Mailbox.Key(source: source, tag: message.tag, channel: message.channel)
    }

    var receivingRank: Int { message.direction == .send ? message.peer : message.rank }

    /// A send with its own copy of the bytes, so that the original can complete at once.
    func copiedAside() -> Transfer {
        let copy = Transfer(message, nil, world)
        if message.byteCount > 0, let buffer {
            copy.ownsBuffer = true
            copy.buffer = .allocate(byteCount: message.byteCount, alignment: 16)
            copy.buffer?.copyMemory(from: buffer, byteCount: message.byteCount)
        }
        return copy
    }

    func markMatched() { state.store(.matched, ordering: .relaxed) }
    func markDone() { state.store(.done, ordering: .releasing) }

    func markFailed(_ error: CommunicationError) {
        failure = error
        state.store(.failed, ordering: .releasing)
    }

    /// Moves the bytes of a matched pair and completes both sides.
    static func copy(from send: Transfer, to receive: Transfer) {
        let count = send.message.byteCount
        let capacity = receive.message.byteCount
        if count > capacity || (count < capacity && !receive.message.mayBeShorter) {
            receive.markFailed(.lengthMismatch(receive.message, received: count))
        } else {
            if count > 0, let source = send.buffer, let target = receive.buffer, source != target {
                target.copyMemory(from: source, byteCount: count)
            }
            receive.receivedByteCount = count
            receive.markDone()
        }
        send.markDone()
    }

    func poll() throws(CommunicationError) -> Bool {
        switch state.load(ordering: .acquiring) {
        case .done: return true
        case .failed: throw failure!
        case .matched: return false
        case .unmatched:
            try world.checkAborted()
            return false
        }
    }

    func abandon() {
        if world.remove(self) { return }
        // The peer has matched it and is copying: the buffer must outlive that.
        while true {
            switch state.load(ordering: .acquiring) {
            case .done, .failed: return
            case .unmatched, .matched: sched_yield()
            }
        }
    }
}

/// The unmatched messages addressed to one rank. A queue holds only sends or only receives.
struct Mailbox {
    struct Key: Hashable {
        var source: Int
        var tag: Int
        var channel: Message.Channel
    }

    private var queues: [Key: [Transfer]] = [:]
    /// Ranks that have ended; the owner's own rank among them once it has.
    var closedRanks: Set<Int> = []

    /// Takes the oldest counterpart of `transfer` out of the box.
    mutating func takeMatch(for transfer: Transfer) -> Transfer? {
        let key = transfer.key
        guard let first = queues[key]?.first, first.message.direction != transfer.message.direction else { return nil }
        queues[key]?.removeFirst()
        if queues[key]?.isEmpty == true { queues[key] = nil }
        return first
    }

    mutating func append(_ transfer: Transfer) { queues[transfer.key, default: []].append(transfer) }

    mutating func remove(_ transfer: Transfer) -> Bool {
        guard let index = queues[transfer.key]?.firstIndex(where: { $0 === transfer }) else { return false }
        queues[transfer.key]?.remove(at: index)
        if queues[transfer.key]?.isEmpty == true { queues[transfer.key] = nil }
        return true
    }

    /// Takes out all messages that wait for `peer` to act.
    mutating func takeWaiting(for peer: Int) -> [Transfer] {
        var taken: [Transfer] = []
        for (key, queue) in queues where queue[0].message.peer == peer {
            taken += queue
            queues[key] = nil
        }
        return taken
    }
}
