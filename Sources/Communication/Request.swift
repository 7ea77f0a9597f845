import Synchronization

/// The transport's half of a ``Request``.
public protocol PendingOperation: AnyObject {
    /// Makes progress; true once the message has completed. Not called again after true or an error.
    func poll() throws(CommunicationError) -> Bool
    /// Gives the message up. In process the transport no longer touches the buffer afterwards. MPI cannot take back a
    /// send, nor a receive whose message has begun to arrive, so there the buffer must outlive the job.
    func abandon()
    /// The length of the message; asked for only once a receive has completed.
    var receivedByteCount: Int { get }
}

/// How a communicator's requests wait, and where they report that nobody waited for them.
public final class WaitPolicy: Sendable {
    /// Whether ranks outnumber cores on this node.
    public let oversubscribed: Bool
    private let timeoutBits: Atomic<UInt64>
    private let dropped = Mutex<[Message]>([])

    public init(timeout: Double, oversubscribed: Bool) {
        timeoutBits = Atomic(timeout.bitPattern)
        self.oversubscribed = oversubscribed
    }

    /// Seconds a wait lasts before it fails with `.timedOut`.
    public var timeout: Double {
        get { Double(bitPattern: timeoutBits.load(ordering: .relaxed)) }
        set { timeoutBits.store(newValue.bitPattern, ordering: .relaxed) }
    }

    /// Seconds that ranks have to report after one of them has ended the job.
    public var grace: Double { min(1, timeout / 2) }

    func report(dropped message: Message) { dropped.withLock { $0.append(message) } }

    /// The messages that were started and dropped before they had completed.
    public var droppedMessages: [Message] { dropped.withLock { $0 } }
}

/// A started message. Its buffer must stay alive and (for a receive) untouched until the request has completed.
///
/// A request belongs to the thread that drives its rank. It ends in one of four ways: completed, cancelled, failed
/// (every later call throws the same error), or dropped: released while pending, which is an error that the
/// communicator reports, with the place where the message was started, when the rank ends well.
public final class Request {
    public let message: Message
    private let operation: any PendingOperation
    private let policy: WaitPolicy
    private enum State { case pending, completed, cancelled, failed(CommunicationError) }
    private var state = State.pending

    public init(_ message: Message, operation: any PendingOperation, policy: WaitPolicy) {
        self.message = message
        self.operation = operation
        self.policy = policy
    }

    deinit {
        if case .pending = state {
            operation.abandon()
            policy.report(dropped: message)
        }
    }

    /// The bytes that a receive got: its buffer's, or fewer where it may be shorter.
    /// - Precondition: it has completed.
    public var receivedByteCount: Int {
        guard case .completed = state, message.direction == .receive else {
            fatalError("Request.receivedByteCount: \(message) is \(state); expected a completed receive")
        }
        return operation.receivedByteCount
    }

    /// Makes progress and tells whether the message has completed.
    public func test() throws(CommunicationError) -> Bool { try test(afterWaiting: 0) }

    /// - Parameter seconds: how long it has been waited for, in case that another rank has ended the job.
    private func test(afterWaiting seconds: Double) throws(CommunicationError) -> Bool {
        switch state {
        case .completed: return true
        case .failed(let error): throw error
        case .cancelled: fatalError("Request.test: \(message) was cancelled; expected a pending or completed request")
        case .pending: break
        }
        do throws(CommunicationError) {
            guard try operation.poll() else { return false }
        } catch {
            // The transport may still hold the buffer when it was the job that ended.
            operation.abandon()
            var error = error
            if case .aborted(let rank) = error {
                error = .interrupted(message, waitedSeconds: seconds, rank: rank)
            }
            state = .failed(error)
            throw error
        }
        state = .completed
        return true
    }

    /// Gives up a message that has not completed, on purpose. Under MPI the buffer must stay alive
    /// until the job ends (see ``PendingOperation/abandon()``).
    public func cancel() {
        guard case .pending = state else { return }
        operation.abandon()
        state = .cancelled
    }

    /// Waits until the message has completed, spinning first and sleeping later.
    /// - Parameter timeout: seconds; the communicator's own if nil.
    public func wait(timeout: Double? = nil) throws(CommunicationError) {
        if try test(afterWaiting: 0) { return }
        let limit = timeout ?? policy.timeout
        var backoff = Backoff(oversubscribed: policy.oversubscribed)
        var waited = 0.0
        while try !test(afterWaiting: waited) {
            waited = backoff.pause()
            if waited > limit { throw fail(after: waited) }
        }
    }

    /// Waits until all have completed. The first error or timeout of any of them ends the wait.
    public static func waitAll(_ requests: [Request], timeout: Double? = nil) throws(CommunicationError) {
        var pending = try Self.pending(requests, afterWaiting: 0)
        guard let policy = pending.first?.policy else { return }
        let limit = timeout ?? policy.timeout
        var backoff = Backoff(oversubscribed: policy.oversubscribed)
        var waited = 0.0
        while true {
            pending = try Self.pending(pending, afterWaiting: waited)
            guard let first = pending.first else { return }
            waited = backoff.pause()
            if waited > limit { throw first.fail(after: waited) }
        }
    }

    /// Waits until at least one has completed and returns the first such index.
    /// - Precondition: `requests` is not empty.
    public static func waitAny(_ requests: [Request], timeout: Double? = nil) throws(CommunicationError) -> Int {
        guard let policy = requests.first?.policy else {
            fatalError("Request.waitAny: got no requests; expected at least one")
        }
        let limit = timeout ?? policy.timeout
        var backoff = Backoff(oversubscribed: policy.oversubscribed)
        var waited = 0.0
        while true {
            for (index, request) in requests.enumerated() where try request.test(afterWaiting: waited) { return index }
            waited = backoff.pause()
            if waited > limit { throw requests[0].fail(after: waited) }
        }
    }

    private static func pending(
        _ requests: [Request], afterWaiting seconds: Double
    ) throws(CommunicationError) -> [Request] {
        var pending: [Request] = []
        for request in requests where try !request.test(afterWaiting: seconds) { pending.append(request) }
        return pending
    }

    private func fail(after seconds: Double) -> CommunicationError {
        operation.abandon()
        let error = CommunicationError.timedOut(message, waitedSeconds: seconds)
        state = .failed(error)
        return error
    }
}
