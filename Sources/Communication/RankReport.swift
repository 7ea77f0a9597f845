/// An error that adds where it happened to another one.
public protocol LocatedError: Error {
    /// Begins with the rank.
    var description: String { get }
    var underlying: any Error { get }
}

/// One rank's last words when a job ends badly.
public struct RankReport: Equatable, Sendable {
    public enum State: UInt8, Sendable {
        /// It threw an error of its own.
        case failed
        /// It was waiting for another rank, beyond the deadline or until the job ended.
        case waiting
        /// It was busy when the job ended.
        case working
        /// Its part was over.
        case ended
    }

    public var rank: Int
    /// The rank that ended the job, as far as this one knows: itself when its own error or deadline did.
    public var origin: Int
    public var state: State
    /// The rank it was waiting for.
    public var peer: Int?
    public var exitCode: Int32
    /// One line that begins with the rank.
    public var text: String

    /// What `error`, with which a rank leaves its work, says about that rank.
    ///
    /// - Parameter earlierOrigin: a rank that is known to have ended the job; then a deadline that expires now, as on a
    ///   rank that was stopped for a while, ends nothing.
    init(_ error: any Error, rank: Int, rankCount: Int, exitCode: Int32, earlierOrigin: Int?) {
        self.rank = rank
        self.exitCode = exitCode
        text = error is any LocatedError ? "\(error)" : "[rank \(rank)/\(rankCount)] \(error)"
        var cause = error
        while let located = cause as? any LocatedError { cause = located.underlying }
        (origin, state, peer) = (rank, .failed, nil)
        switch cause as? CommunicationError {
        case .timedOut(let message, _), .peerClosed(let message): (state, peer) = (.waiting, message.peer)
        case .interrupted(let message, _, let other): (origin, state, peer) = (other, .waiting, message.peer)
        case .stillRunning(let other, _): (state, peer) = (.waiting, other)
        case .aborted(let other): (origin, state) = (other, .working)
        default: break
        }
        if let earlierOrigin, state == .waiting { origin = earlierOrigin }
    }

    /// The rank's part was over when the job ended.
    init(endedRank rank: Int, rankCount: Int, origin: Int) {
        (self.rank, self.origin, state, exitCode) = (rank, origin, .ended, 0)
        text = "[rank \(rank)/\(rankCount)] had ended"
    }

    // MARK: Messages

    /// The longest encoded report; a transport can take this much without the receiver's help.
    static let largestByteCount = 1024
    private static let headerByteCount = 16

    /// The report as bytes, the text cut to what fits.
    var bytes: [UInt8] {
        var bytes: [UInt8] = []
        for number in [Int32(origin), Int32(peer ?? -1), exitCode, Int32(state.rawValue)] {
            withUnsafeBytes(of: number) { bytes += $0 }
        }
        return bytes + text.utf8.prefix(Self.largestByteCount - Self.headerByteCount)
    }

    /// nil when the bytes are no report.
    init?(rank: Int, bytes: [UInt8]) {
        guard bytes.count >= Self.headerByteCount else { return nil }
        let header = bytes.withUnsafeBytes { buffer in
            (0..<4).map { buffer.loadUnaligned(fromByteOffset: 4 * $0, as: Int32.self) }
        }
        guard let state = UInt8(exactly: header[3]).flatMap(State.init) else { return nil }
        self.rank = rank
        origin = Int(header[0])
        peer = header[1] < 0 ? nil : Int(header[1])
        exitCode = header[2]
        self.state = state
        text = String(decoding: bytes[Self.headerByteCount...], as: UTF8.self)
    }
}
