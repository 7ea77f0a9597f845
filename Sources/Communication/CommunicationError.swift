/// What can go wrong between ranks. Cases carry values; `description` has the words.
///
/// After any of these the job cannot go on: the caller leaves its work with the error and calls ``Communicator/abort(exitCode:because:)``.
public enum CommunicationError: Error, Equatable, Sendable {
    /// The message did not complete in time.
    case timedOut(Message, waitedSeconds: Double)
    /// The peer sent another number of bytes than the receive expected; `received` is nil where the transport
    /// only knows that the message was longer than the buffer.
    case lengthMismatch(Message, received: Int?)
    case invalidPeer(Message, rankCount: Int)
    case invalidTag(Message, largest: Int)
    /// The peer's part of the job has ended, so the message can never complete.
    case peerClosed(Message)
    /// A rank ended the job while this one was at work.
    case aborted(rank: Int)
    /// A rank ended the job while this one waited for the message.
    case interrupted(Message, waitedSeconds: Double, rank: Int)
    /// This rank's part is over, and the other's is not within the deadline after that.
    case stillRunning(rank: Int, waitedSeconds: Double)
    /// Ranks that must agree on a value do not.
    case disagreement(on: String, rank: Int, value: String, rankZeroValue: String)
    /// A rank that otherwise ended well started messages and never waited for them.
    case droppedRequests(rank: Int, [Message])
    /// A call into the transport's library failed.
    case transport(function: String, code: Int, text: String)
    /// A fault injected by a test.
    case injected(Message)
}

extension CommunicationError {
    /// The message that the error is about.
    public var message: Message? {
        switch self {
        case .timedOut(let message, _), .lengthMismatch(let message, _), .invalidPeer(let message, _),
            .invalidTag(let message, _), .peerClosed(let message), .interrupted(let message, _, _),
            .injected(let message):
            message
        case .aborted, .stillRunning, .disagreement, .droppedRequests, .transport: nil
        }
    }
}

extension CommunicationError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .timedOut(let message, let seconds):
            "\(message) did not complete within \(rounded(seconds)) s: the peer is stuck, has died, or never posts the matching message"
        case .lengthMismatch(let message, let received?):
            "\(message) got a message of \(received) bytes; both ends must compute the same size from the plan"
        case .lengthMismatch(let message, nil):
            "\(message) got a longer message than that; both ends must compute the same size from the plan"
        case .invalidPeer(let message, let rankCount):
            "\(message) names a rank that does not exist; expected 0 ..< \(rankCount)"
        case .invalidTag(let message, let largest):
            "\(message) has an invalid tag; expected 0 ... \(largest)"
        case .peerClosed(let message):
            "\(message) can never complete: rank \(message.peer) has already ended"
        case .aborted(let rank):
            "was at work when rank \(rank) ended the job"
        case .interrupted(let message, let seconds, let rank):
            "\(message) had been waited for \(rounded(seconds)) s when rank \(rank) ended the job"
        case .stillRunning(let rank, let seconds):
            "had ended, but rank \(rank) had not \(rounded(seconds)) s later"
        case .disagreement(let subject, let rank, let value, let expected):
            "ranks disagree on \(subject): rank \(rank) has '\(value)', rank 0 has '\(expected)'; all ranks must run the same program on the same input"
        case .droppedRequests(let rank, let messages):
            "rank \(rank) started \(messages.count) message(s) and never waited for them: "
                + messages.map(\.description).joined(separator: "; ")
        case .transport(let function, let code, let text):
            "\(function) failed with code \(code): \(text)"
        case .injected(let message):
            "\(message) failed: injected fault"
        }
    }

    private func rounded(_ seconds: Double) -> Double { (seconds * 1000).rounded() / 1000 }
}
