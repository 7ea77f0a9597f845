/// Some of a job's ranks as a job of their own, renumbered `0 ..< ranks.count`: the replicas of one stage, for example.
///
/// It shares the parent's messages: tags must not be used for both at once between the same two ranks, and each
/// member must call the collective operations of all its groups in an order that agrees with every other member's.
/// Errors speak of the parent's ranks. `poke`, `abort` and the timeout are the parent's.
public final class SubgroupCommunicator: Communicator {
    public let rank: Int
    private let ranks: [Int]
    private let parent: any Communicator

    /// Not collective.
    /// - Parameter ranks: the parent's ranks, in the group's order, distinct, among them this one.
    public init(_ parent: any Communicator, ranks: [Int]) {
        guard let rank = ranks.firstIndex(of: parent.rank), Set(ranks).count == ranks.count,
            ranks.allSatisfy({ $0 >= 0 && $0 < parent.size })
        else {
            fatalError(
                "SubgroupCommunicator: got ranks \(ranks); expected distinct ranks below \(parent.size) with \(parent.rank) among them"
            )
        }
        self.parent = parent
        self.ranks = ranks
        self.rank = rank
    }

    public var size: Int { ranks.count }
    public var localRank: Int { parent.localRank }
    public var localSize: Int { parent.localSize }
    public var localCoreCount: Int { parent.localCoreCount }
    public var largestTag: Int { parent.largestTag }
    public var policy: WaitPolicy { parent.policy }
    public var jobSize: Int { parent.jobSize }

    public func jobRank(of rank: Int) -> Int { parent.jobRank(of: ranks[rank]) }

    public func start(_ message: Message, at buffer: UnsafeMutableRawPointer?) throws(CommunicationError) -> Request {
        var message = message
        message.rank = parent.rank
        message.peer = ranks[message.peer]
        return try parent.start(message, at: buffer)
    }

    public func poke() throws(CommunicationError) { try parent.poke() }

    public func abort(exitCode: Int32, because error: any Error) { parent.abort(exitCode: exitCode, because: error) }
}
