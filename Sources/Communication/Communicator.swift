/// One rank's end of a job: it moves bytes between ranks and knows nothing of what they mean.
///
/// The contract is the same for every transport, and `CommunicationSelfTest` checks it:
/// * One thread drives a rank; all calls come from that thread.
/// * Messages match by (source, destination, tag) and keep their order within that triple. Ranks may send to themselves.
/// * `send` and `receive` only start a message. Whether a send completes before its receive is posted is left
///   open, so programs must not rely on it.
/// * `receive(into:)` states the exact length, and any other is an error; `receive(upTo:)` takes shorter messages too,
///   and its request tells how many bytes came.
/// * No call blocks for ever: waiting fails after `timeout`, when a rank aborts, or when the peer has ended.
/// * The collective operations (Communicator+Collectives.swift) must be called by all ranks in the same order.
public protocol Communicator: AnyObject, Sendable {
    var rank: Int { get }
    var size: Int { get }
    /// This rank's index among the ranks that share memory with it.
    var localRank: Int { get }
    /// How many ranks share memory with this one, itself included.
    var localSize: Int { get }
    /// The cores that these ranks share; `max(1, localCoreCount / localSize)` threads per rank fill the node.
    var localCoreCount: Int { get }
    /// Tags are `0 ... largestTag`.
    var largestTag: Int { get }
    /// Ranks of the whole job, which a group of ranks is only a part of; for messages to people.
    var jobSize: Int { get }
    /// How requests wait; its `timeout` may be changed at any time.
    var policy: WaitPolicy { get }

    /// The number that a rank has in the whole job.
    func jobRank(of rank: Int) -> Int

    /// Starts a message; `send` and `receive` are the convenient forms.
    func start(_ message: Message, at buffer: UnsafeMutableRawPointer?) throws(CommunicationError) -> Request

    /// Drives progress of started messages; to be called between pieces of work, because transports make none in the
    /// background. Throws `.aborted` where the transport can tell that another rank has ended the job.
    func poke() throws(CommunicationError)

    /// Ends the whole job because of `error`: every rank stops waiting, says what it was doing (``RankReport``), and
    /// processes exit with `exitCode`; the last line names the culprit (``PostMortem``). A rank that left its work
    /// because another one had ended the job calls it all the same.
    ///
    /// Under MPI it does not return: it waits `policy.grace` for the others' reports and ends all processes, those that
    /// hang included. In process it returns at once, and the caller should then leave.
    func abort(exitCode: Int32, because error: any Error)
}

extension Communicator {
    public var jobSize: Int { size }
    public func jobRank(of rank: Int) -> Int { rank }

    /// Seconds a wait lasts before it fails with `.timedOut`.
    public var timeout: Double {
        get { policy.timeout }
        set { policy.timeout = newValue }
    }

    /// Starts sending `bytes`, which must stay alive and unchanged until the request has completed. Not collective.
    public func send(
        _ bytes: UnsafeRawBufferPointer, to peer: Int, tag: Int, file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) -> Request {
        try begin(
            .send, UnsafeMutableRawBufferPointer(mutating: bytes), peer: peer, tag: tag, channel: .pointToPoint, file,
            line)
    }

    /// Starts receiving exactly `buffer.count` bytes into `buffer`, which must stay alive and untouched until the
    /// request has completed. Not collective.
    public func receive(
        into buffer: UnsafeMutableRawBufferPointer, from peer: Int, tag: Int, file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) -> Request {
        try begin(.receive, buffer, peer: peer, tag: tag, channel: .pointToPoint, file, line)
    }

    /// Starts receiving a message of at most `buffer.count` bytes, whose length only the sender knows; once it has
    /// completed, ``Request/receivedByteCount`` tells it, and the rest of `buffer` is as it was. Not collective.
    public func receive(
        upTo buffer: UnsafeMutableRawBufferPointer, from peer: Int, tag: Int, file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) -> Request {
        try begin(.receive, buffer, mayBeShorter: true, peer: peer, tag: tag, channel: .pointToPoint, file, line)
    }

    func begin(
        _ direction: Message.Direction, _ buffer: UnsafeMutableRawBufferPointer, mayBeShorter: Bool = false, peer: Int,
        tag: Int, channel: Message.Channel, _ file: String, _ line: Int
    ) throws(CommunicationError) -> Request {
        let message = Message(
            direction: direction, rank: rank, peer: peer, tag: tag, byteCount: buffer.count, mayBeShorter: mayBeShorter,
            channel: channel, file: file, line: line)
        guard peer >= 0 && peer < size else { throw .invalidPeer(message, rankCount: size) }
        guard tag >= 0 && tag <= largestTag else { throw .invalidTag(message, largest: largestTag) }
        return try start(message, at: buffer.baseAddress)
    }
}
