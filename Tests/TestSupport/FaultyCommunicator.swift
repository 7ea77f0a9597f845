import Communication
import Synchronization

/// A communicator that misbehaves on purpose, around any other.
public final class FaultyCommunicator: Communicator {
    public enum Fault: Sendable {
        /// The n-th send of this rank fails, counted from 1; collective operations send too.
        case failSend(Int)
        /// The n-th receive of this rank fails, counted from 1.
        case failReceive(Int)
        /// Each message completes late by a pseudo-random number of polls, at most `polls`.
        case delay(seed: UInt64, polls: UInt64)
    }

    private let base: any Communicator
    private let fault: Fault
    private let sendCount = Atomic(0)
    private let receiveCount = Atomic(0)

    public init(_ base: any Communicator, _ fault: Fault) {
        self.base = base
        self.fault = fault
    }

    public var rank: Int { base.rank }
    public var size: Int { base.size }
    public var localRank: Int { base.localRank }
    public var localSize: Int { base.localSize }
    public var localCoreCount: Int { base.localCoreCount }
    public var largestTag: Int { base.largestTag }
    public var policy: WaitPolicy { base.policy }

    /// Messages started so far; tells a test when it has failed each of them once.
    public var sends: Int { sendCount.load(ordering: .relaxed) }
    public var receives: Int { receiveCount.load(ordering: .relaxed) }

    public func start(_ message: Message, at buffer: UnsafeMutableRawPointer?) throws(CommunicationError) -> Request {
        let counter = message.direction == .send ? sends + 1 : receives + 1
        switch message.direction {
        case .send: sendCount.store(counter, ordering: .relaxed)
        case .receive: receiveCount.store(counter, ordering: .relaxed)
        }
        switch (fault, message.direction) {
        case (.failSend(counter), .send), (.failReceive(counter), .receive): throw .injected(message)
        case (.delay(let seed, let polls), _):
            let inner = try base.start(message, at: buffer)
            let late = scramble(seed &+ UInt64(counter) &* 2 &+ (message.direction == .send ? 1 : 0)) % (polls + 1)
            return Request(message, operation: LateOperation(inner, polls: late), policy: policy)
        default: return try base.start(message, at: buffer)
        }
    }

    public func poke() throws(CommunicationError) { try base.poke() }

    public func abort(exitCode: Int32, because error: any Error) { base.abort(exitCode: exitCode, because: error) }
}

private final class LateOperation: PendingOperation {
    private let inner: Request
    private var pollsLeft: UInt64

    init(_ inner: Request, polls: UInt64) {
        self.inner = inner
        pollsLeft = polls
    }

    func poll() throws(CommunicationError) -> Bool {
        guard try inner.test() else { return false }
        if pollsLeft == 0 { return true }
        pollsLeft -= 1
        return false
    }

    func abandon() { inner.cancel() }

    var receivedByteCount: Int { inner.receivedByteCount }
}

/// SplitMix64's finaliser (Steele, Lea and Flood 2014).
private func scramble(_ value: UInt64) -> UInt64 {
    var bits = value &* 0x9E37_79B9_7F4A_7C15
    bits = (bits ^ (bits >> 30)) &* 0xBF58_476D_1CE4_E5B9
    bits = (bits ^ (bits >> 27)) &* 0x94D0_49BB_1331_11EB
    return bits ^ (bits >> 31)
}
