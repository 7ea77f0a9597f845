/// One unit's activation on its way to the next stage, or its input gradient on its way back.
public struct StageMessage: Hashable, Sendable {
    public enum Kind: UInt8, Sendable { case activation, gradient }

    public let kind: Kind
    /// 0 on the line of stages, `e` on `ScheduleShape.skips[e - 1]`.
    public let edge: Int
    /// The unit that computed it.
    public let producer: UnitOfWork
    /// The unit that needs it: same micro-batch and chunk, the stage at the other end of the edge.
    public let consumer: UnitOfWork

    public var fromStage: Int { producer.stage }
    public var toStage: Int { consumer.stage }
    public var microBatch: Int { producer.microBatch }
    public var chunk: Int { producer.chunk }

    /// What a SEND, RECV or WAIT action moves; nil for other kinds, where the edge does not touch the stage, and for
    /// gradients where either end has no backward.
    public init?(_ action: Action, _ shape: ScheduleShape) {
        let unit = action.unit
        let other: UnitOfWork?
        switch action.kind {
        case .sendActivation, .waitActivation, .receiveGradient: other = shape.downstream(of: unit, edge: action.edge)
        case .sendGradient, .waitGradient, .receiveActivation: other = shape.upstream(of: unit, edge: action.edge)
        default: return nil
        }
        guard let other else { return nil }
        let isReceiver = action.kind == .receiveActivation || action.kind == .receiveGradient
        let isGradient =
            action.kind == .sendGradient || action.kind == .waitGradient || action.kind == .receiveGradient
        if isGradient, !shape.hasBackward(unit.stage) || !shape.hasBackward(other.stage) { return nil }
        kind = isGradient ? .gradient : .activation
        edge = action.edge
        producer = isReceiver ? other : unit
        consumer = isReceiver ? unit : other
    }

    /// What the other rank does with the message that `action` moves: a SEND for a RECV, a RECV for a SEND or WAIT.
    func counterpart(of action: Action) -> Action {
        switch action.kind {
        case .receiveActivation: Action(.sendActivation, producer, edge: edge)
        case .receiveGradient: Action(.sendGradient, producer, edge: edge)
        default: Action(kind == .activation ? .receiveActivation : .receiveGradient, consumer, edge: edge)
        }
    }

    /// The receives that bring a compute action what it needs from other stages; the line first.
    static func receives(for action: Action, _ shape: ScheduleShape) -> [Action] {
        let kind: Action.Kind
        let ends: KeyPath<SkipEdge, Int>
        switch action.kind {
        case .forward: (kind, ends) = (.receiveActivation, \.toStage)
        case .inputGradient, .backward: (kind, ends) = (.receiveGradient, \.fromStage)
        default: return []
        }
        let edges = [0] + shape.skips.indices.filter { shape.skips[$0][keyPath: ends] == action.stage }.map { $0 + 1 }
        return edges.map { Action(kind, action.unit, edge: $0) }.filter { StageMessage($0, shape) != nil }
    }

    /// Those of them that come from other ranks.
    static func receives(for action: Action, _ schedule: Schedule) -> [Action] {
        receives(for: action, schedule.shape).filter {
            let message = StageMessage($0, schedule.shape)!
            return schedule.placement.ranks[message.fromStage] != schedule.placement.ranks[message.toStage]
        }
    }
}

/// Numbers the messages of a step: `kind · edge · micro-batch · chunk` in mixed radix, so that two messages of one step
/// never share a tag. A piece of the line is named by its sending stage, which has one neighbour each way; skips follow.
public struct MessageTags: Sendable {
    private let index: ScheduleIndex

    /// - Throws: `ScheduleError.tooManyMessages` when the transport has too few tags.
    public init(_ shape: ScheduleShape, largestTag: Int) throws(ScheduleError) {
        index = ScheduleIndex(shape)
        let count = 2 * index.slotCount
        guard count - 1 <= largestTag else { throw .tooManyMessages(count: count, limit: largestTag + 1) }
    }

    public func tag(of message: StageMessage) -> Int {
        Int(message.kind.rawValue) * index.slotCount
            + index.slot(from: index.shape.index(of: message.producer), edge: message.edge)
    }
}
