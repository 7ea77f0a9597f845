/// What a message is, apart from its bytes; errors show it.
public struct Message: Equatable, Sendable {
    public enum Direction: Sendable { case send, receive }

    /// Messages on different channels never match, so that collective operations cannot take point-to-point messages.
    public enum Channel: Int, Sendable { case pointToPoint, collective }

    public var direction: Direction
    /// The rank that started it.
    public var rank: Int
    /// The other rank.
    public var peer: Int
    public var tag: Int
    /// Its length; of a receive, the length expected or, when `mayBeShorter`, the capacity of the buffer.
    public var byteCount: Int
    /// Of a receive: any message of at most `byteCount` bytes will do.
    public var mayBeShorter: Bool
    public var channel: Channel
    /// Where in the source it was started.
    public var file: String
    public var line: Int

    public init(
        direction: Direction, rank: Int, peer: Int, tag: Int, byteCount: Int, mayBeShorter: Bool = false,
        channel: Channel, file: String, line: Int
    ) {
        self.direction = direction
        self.rank = rank
        self.peer = peer
        self.tag = tag
        self.byteCount = byteCount
        self.mayBeShorter = mayBeShorter
        self.channel = channel
        self.file = file
        self.line = line
    }
}

extension Message: CustomStringConvertible {
    public var description: String {
        let route = direction == .send ? "send to rank \(peer)" : "receive from rank \(peer)"
        let kind = channel == .collective ? "collective tag" : "tag"
        let length = mayBeShorter ? "at most \(byteCount)" : "\(byteCount)"
        return "rank \(rank): \(route), \(kind) \(tag), \(length) bytes (\(file):\(line))"
    }
}
