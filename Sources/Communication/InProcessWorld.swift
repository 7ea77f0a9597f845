import CMPI
import Glibc
import Synchronization

/// The error of the first rank that failed in ``InProcessWorld/run(size:eagerLimit:timeout:_:)``.
public struct RankFailure: Error, CustomStringConvertible {
    public let rank: Int
    public let rankCount: Int
    public let underlying: any Error

    public var description: String { "[rank \(rank)/\(rankCount)] \(underlying)" }
}

/// A job whose ranks are threads of this process: the single-process mode, and what tests run on.
public final class InProcessWorld: Sendable {
    public let size: Int
    let eagerLimit: Int
    private let mailboxes: [MailboxCell]
    private let policies: [WaitPolicy]
    let coreCount: Int
    private let hasAborted = Atomic(false)
    private let abortion = Mutex<CommunicationError?>(nil)

    /// A mailbox has its own lock, so that ranks that talk to different peers do not meet.
    private final class MailboxCell: Sendable {
        private let box = Mutex(Mailbox())

        /// Tries for a while before it lets the thread sleep on the lock, which is held for a fraction of a microsecond
        /// and often wanted by both ends of a message at once.
        func withLock<Result: Sendable>(_ body: (inout Mailbox) -> Result) -> Result {
            for _ in 0..<200 {
                if let result = box.withLockIfAvailable({ body(&$0) }) { return result }
            }
            return box.withLock { body(&$0) }
        }
    }

    /// - Parameters:
    ///   - size: the number of ranks, ≥ 1.
    ///   - eagerLimit: the longest send, in bytes, that may complete before it is received; -1 makes none do so, which
    ///     shows programs that rely on it.
    ///   - timeout: seconds a wait lasts before it fails.
    public init(size: Int, eagerLimit: Int = 4096, timeout: Double = 300) {
        guard size >= 1 else { fatalError("InProcessWorld: got size \(size); expected at least 1") }
        self.size = size
        self.eagerLimit = eagerLimit
        let coreCount = Int(cmpi_core_count())
        self.coreCount = coreCount
        mailboxes = (0..<size).map { _ in MailboxCell() }
        policies = (0..<size).map { _ in WaitPolicy(timeout: timeout, oversubscribed: size > coreCount) }
    }

    /// The given rank's end of the job. It must outlive its requests.
    public func communicator(rank: Int) -> InProcessCommunicator {
        InProcessCommunicator(world: self, rank: rank, policy: policies[rank])
    }

    /// Runs `body` once per rank, each on a thread of its own, and returns the results by rank.
    ///
    /// When a rank throws, the others are aborted and the first error is rethrown as a ``RankFailure``. When all end
    /// well but requests were dropped, that is the error.
    public static func run<Result: Sendable>(
        size: Int, eagerLimit: Int = 4096, timeout: Double = 300,
        _ body: @escaping @Sendable (InProcessCommunicator) throws -> Result
    ) throws -> [Result] {
        let world = InProcessWorld(size: size, eagerLimit: eagerLimit, timeout: timeout)
        let results = Mutex([Result?](repeating: nil, count: size))
        let firstFailure = Mutex<RankFailure?>(nil)
        let threads = (0..<size).map { rank in
            startThread {
                let communicator = world.communicator(rank: rank)
                do {
                    let result = try body(communicator)
                    results.withLock { $0[rank] = result }
                    world.close(rank: rank)
                } catch {
                    firstFailure.withLock {
                        if $0 == nil { $0 = RankFailure(rank: rank, rankCount: size, underlying: error) }
                    }
                    communicator.abort(exitCode: 1, message: "\(error)")
                }
            }
        }
        for thread in threads { pthread_join(thread, nil) }
        if let failure = firstFailure.withLock({ $0 }) { throw failure }
        try world.checkAborted()
        for rank in 0..<size {
            let dropped = world.policies[rank].droppedMessages
            if !dropped.isEmpty { throw CommunicationError.droppedRequests(rank: rank, dropped) }
        }
        return results.withLock { $0.map { $0! } }
    }

    func checkAborted() throws(CommunicationError) {
        guard hasAborted.load(ordering: .acquiring) else { return }
        throw abortion.withLock { $0! }
    }

    /// The first abort wins.
    func abort(rank: Int, exitCode: Int32, message: String) {
        abortion.withLock {
            if $0 == nil { $0 = .aborted(rank: rank, exitCode: exitCode, message: message) }
        }
        hasAborted.store(true, ordering: .releasing)
    }

    /// Matches `transfer` or leaves it in the receiving rank's mailbox.
    func post(_ transfer: Transfer) throws(CommunicationError) {
        enum Outcome: @unchecked Sendable { case matched(Transfer), queued, copied, closed }
        let message = transfer.message
        let outcome = mailboxes[transfer.receivingRank].withLock { box -> Outcome in
            if let counterpart = box.takeMatch(for: transfer) {
                counterpart.markMatched()
                return .matched(counterpart)
            }
            if box.closedRanks.contains(message.peer) { return .closed }
            if message.direction == .send && message.byteCount <= eagerLimit {
                box.append(transfer.copiedAside())
                return .copied
            }
            box.append(transfer)
            return .queued
        }
        switch outcome {
        case .queued: break
        case .copied: transfer.markDone()
        case .closed: throw .peerClosed(message)
        case .matched(let other):
            let (send, receive) = message.direction == .send ? (transfer, other) : (other, transfer)
            Transfer.copy(from: send, to: receive)
        }
    }

    func remove(_ transfer: Transfer) -> Bool {
        mailboxes[transfer.receivingRank].withLock { $0.remove(transfer) }
    }

    /// Ends a rank: messages that still wait for it fail, now and later.
    func close(rank: Int) {
        for cell in mailboxes {
            let stranded = cell.withLock { box in
                box.closedRanks.insert(rank)
                return box.takeWaiting(for: rank)
            }
            for transfer in stranded { transfer.markFailed(.peerClosed(transfer.message)) }
        }
    }
}

/// Starts a thread with a stack as large as a process's first thread usually has; deep models recurse deeply.
private func startThread(_ body: @escaping @Sendable () -> Void) -> pthread_t {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    pthread_attr_setstacksize(&attributes, 64 << 20)
    var thread = pthread_t()
    let code = pthread_create(
        &thread, &attributes,
        { context in
            Unmanaged<Box>.fromOpaque(context!).takeRetainedValue().body()
            return nil
        }, Unmanaged.passRetained(Box(body)).toOpaque())
    guard code == 0 else { fatalError("InProcessWorld: cannot start a thread: \(String(cString: strerror(code)))") }
    return thread
}
