import CMPI
import Glibc
import Synchronization

/// The error of the first rank that failed in ``InProcessWorld/run(size:eagerLimit:timeout:_:)``.
public struct RankFailure: LocatedError, CustomStringConvertible {
    public let rank: Int
    public let rankCount: Int
    public let underlying: any Error
    /// What every rank said, and who is to blame.
    public fileprivate(set) var postMortem: PostMortem
    /// Ranks whose threads could not be ended; the process should not outlive them by much.
    public fileprivate(set) var strandedRanks: [Int] = []

    public var description: String {
        underlying is any LocatedError ? "\(underlying)" : "[rank \(rank)/\(rankCount)] \(underlying)"
    }
}

/// A job whose ranks are threads of this process: the single-process mode, and what tests run on.
public final class InProcessWorld: Sendable {
    public let size: Int
    let eagerLimit: Int
    private let mailboxes: [MailboxCell]
    private let policies: [WaitPolicy]
    let coreCount: Int
    private let hasAborted = Atomic(false)
    /// The first failure, with all reports; nil while all is well.
    private let failure = Mutex<RankFailure?>(nil)

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
    /// When a rank throws, the others are aborted and the first error is rethrown as a ``RankFailure``. A thread that has
    /// not ended some time after that (`WaitPolicy.grace`) is left to itself. When all end well but requests were
    /// dropped, that is the error. A rank that has ended waits for the others no longer than its deadline.
    public static func run<Result: Sendable>(
        size: Int, eagerLimit: Int = 4096, timeout: Double = 300,
        _ body: @escaping @Sendable (InProcessCommunicator) throws -> Result
    ) throws -> [Result] {
        let world = InProcessWorld(size: size, eagerLimit: eagerLimit, timeout: timeout)
        let results = Mutex([Result?](repeating: nil, count: size))
        let ended = EndedRanks()
        let threads = (0..<size).map { rank in
            startThread {
                let communicator = world.communicator(rank: rank)
                do {
                    let result = try body(communicator)
                    results.withLock { $0[rank] = result }
                    world.close(rank: rank)
                } catch {
                    communicator.abort(exitCode: 1, because: error)
                }
                ended.add(rank)
            }
        }
        let stranded = world.waitForEnd(ended)
        for rank in 0..<size {
            if stranded.contains(rank) { pthread_detach(threads[rank]) } else { pthread_join(threads[rank], nil) }
        }
        if let failure = world.failure(stranded: stranded) { throw failure }
        for rank in 0..<size {
            let dropped = world.policies[rank].droppedMessages
            if !dropped.isEmpty { throw CommunicationError.droppedRequests(rank: rank, dropped) }
        }
        return results.withLock { $0.map { $0! } }
    }

    /// Returns once all ranks have ended, or those that have not are given up: their numbers.
    private func waitForEnd(_ ended: EndedRanks) -> [Int] {
        var firstEnd: (rank: Int, time: UInt64)?
        var abortTime: UInt64?
        while true {
            let missing = ended.wait(size: size)
            guard let first = missing.first else { return [] }
            let now = monotonicNanoseconds()
            if hasAborted.load(ordering: .acquiring) {
                let since = abortTime ?? now
                abortTime = since
                if Double(now - since) * 1e-9 > grace { return missing }
            } else if missing.count < size {
                let end = firstEnd ?? ((0..<size).first { !missing.contains($0) }!, now)
                firstEnd = end
                let waited = Double(now - end.time) * 1e-9
                if waited > policies[end.rank].timeout {
                    abort(
                        rank: end.rank, exitCode: 1,
                        because: CommunicationError.stillRunning(rank: first, waitedSeconds: waited))
                }
            }
        }
    }

    private var grace: Double { policies.map(\.grace).max()! }

    /// The first failure with all reports, once the ranks have ended.
    private func failure(stranded: [Int]) -> RankFailure? {
        failure.withLock { failure in
            guard var found = failure else { return nil }
            found.strandedRanks = stranded
            for rank in 0..<size where !stranded.contains(rank) {
                found.postMortem.add(RankReport(endedRank: rank, rankCount: size, origin: found.rank))
            }
            return found
        }
    }

    func checkAborted() throws(CommunicationError) {
        guard hasAborted.load(ordering: .acquiring) else { return }
        throw .aborted(rank: failure.withLock { $0!.rank })
    }

    /// The first failure counts; later ones report what else was going on.
    func abort(rank: Int, exitCode: Int32, because error: any Error) {
        failure.withLock { failure in
            let report = RankReport(
                error, rank: rank, rankCount: size, exitCode: exitCode, earlierOrigin: failure?.rank)
            if failure == nil {
                let postMortem = PostMortem(rankCount: size, grace: grace)
                failure = RankFailure(rank: rank, rankCount: size, underlying: error, postMortem: postMortem)
            }
            failure!.postMortem.add(report)
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

/// The ranks whose threads are at their end. A semaphore, because waiting for a thread itself knows no deadline.
private final class EndedRanks: @unchecked Sendable {
    private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
    private let ranks = Mutex<Set<Int>>([])

    init() { sem_init(semaphore, 0, 0) }

    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }

    func add(_ rank: Int) {
        ranks.withLock { _ = $0.insert(rank) }
        sem_post(semaphore)
    }

    /// Waits until another rank has ended, or 20 ms; returns the ranks below `size` that have not.
    func wait(size: Int) -> [Int] {
        var limit = timespec()
        clock_gettime(CLOCK_REALTIME, &limit)
        let nanoseconds = limit.tv_nsec + 20_000_000
        limit = timespec(tv_sec: limit.tv_sec + nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000)
        sem_timedwait(semaphore, &limit)
        return ranks.withLock { ranks in (0..<size).filter { !ranks.contains($0) } }
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
