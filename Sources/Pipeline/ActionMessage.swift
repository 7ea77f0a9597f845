/// One unit's activation on its way to the next stage, or its input gradient on its way back.
public struct StageMessage: Hashable, Sendable {
    public enum Kind: UInt8, Sendable { case activation, gradient }

    public let kind: Kind
    /// The unit that computed it.
    public let producer: UnitOfWork
    /// The unit that needs it: same micro-batch and chunk, neighbouring stage.
    public let consumer: UnitOfWork

    public var fromStage: Int { producer.stage }
    public var toStage: Int { consumer.stage }
    public var microBatch: Int { producer.microBatch }
    public var chunk: Int { producer.chunk }
    /// The producer's pass.
    public var recursion: Int { producer.recursion }

    /// What a SEND, RECV or WAIT action moves; nil for other kinds and where there is no neighbouring stage.
    public init?(_ action: Action, _ shape: ScheduleShape) {
        let unit = action.unit
        switch action.kind {
        case .sendActivation, .waitActivation:
            guard let other = shape.downstream(of: unit) else { return nil }
            self.init(kind: .activation, producer: unit, consumer: other)
        case .sendGradient, .waitGradient:
            guard let other = shape.upstream(of: unit) else { return nil }
            self.init(kind: .gradient, producer: unit, consumer: other)
        case .receiveActivation:
            guard let other = shape.upstream(of: unit) else { return nil }
            self.init(kind: .activation, producer: other, consumer: unit)
        case .receiveGradient:
            guard let other = shape.downstream(of: unit) else { return nil }
            self.init(kind: .gradient, producer: other, consumer: unit)
        default: return nil
        }
    }

    private init(kind: Kind, producer: UnitOfWork, consumer: UnitOfWork) {
        self.kind = kind
        self.producer = producer
        self.consumer = consumer
    }
}

/// Numbers the messages of a step: `kind · edge · recursion · micro-batch · chunk` in mixed radix, so that two
/// messages of one step never share a tag. An edge is named by its sending stage, which has one neighbour each way.
public struct MessageTags: Sendable {
    private let shape: ScheduleShape

    /// - Throws: `ScheduleError.tooManyMessages` when the transport has too few tags.
    public init(_ shape: ScheduleShape, largestTag: Int) throws(ScheduleError) {
        let count = 2 * shape.unitCount
        guard count - 1 <= largestTag else { throw .tooManyMessages(count: count, limit: largestTag + 1) }
        self.shape = shape
    }

    public func tag(of message: StageMessage) -> Int {
        Int(message.kind.rawValue) * shape.unitCount + shape.index(of: message.producer)
    }
}
