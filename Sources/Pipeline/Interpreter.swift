import Communication
import Kernels

/// Runs one rank's list of a lowered schedule, action by action. It holds no policy: all order comes from the list.
///
/// Everything an action needs (message, peer, tag, where its request is kept) is worked out once, so that a step
/// allocates only what the transport needs for its requests.
public final class Interpreter {
    /// A message with everything looked up.
    private struct Transfer {
        /// The SEND, RECV or WAIT that moves it.
        var action: Action
        var message: StageMessage
        var peer: Int
        var tag: Int
        /// Index into `requests`.
        var slot: Int
    }

    /// An action with the message it moves, or for compute actions those it needs.
    private struct Instruction {
        var action: Action
        var transfers: [Transfer] = []
    }

    private let communicator: any Communicator
    private let timeout: Double?
    private let instructions: [Instruction]
    private var requests: [Request?]
    /// Where actions are recorded; nil records nothing and costs nothing.
    public var recorder: TraceRecorder?

    /// - Parameters:
    ///   - schedule: lowered, and accepted by `Verifier`.
    ///   - communicator: its ranks are the ranks of the placement.
    ///   - timeout: seconds one message may keep the rank waiting; nil takes the communicator's.
    /// - Throws: `ScheduleError.tooManyMessages`.
    public init(
        _ schedule: Schedule, communicator: any Communicator, timeout: Double? = nil, recorder: TraceRecorder? = nil
    ) throws(ScheduleError) {
        require(schedule.isLowered, "Interpreter: got compute schedule '\(schedule.name)'; expected a lowered one")
        require(
            communicator.size == schedule.placement.rankCount,
            "Interpreter: got \(communicator.size) ranks; expected \(schedule.placement.rankCount) as placed")
        self.communicator = communicator
        self.timeout = timeout
        self.recorder = recorder
        let tags = try MessageTags(schedule.shape, largestTag: communicator.largestTag)
        var slots: [Int: Int] = [:]
        instructions = schedule.ranks[communicator.rank].map { action in
            let messages = action.kind.isMessage ? [action] : StageMessage.receives(for: action, schedule)
            return Instruction(
                action: action,
                transfers: messages.map { action in
                    let message = StageMessage(action, schedule.shape)!
                    let isReceive = action.kind == .receiveActivation || action.kind == .receiveGradient
                    let other = isReceive ? message.producer : message.consumer
                    let tag = tags.tag(of: message)
                    // Tags tell all messages of a step apart, sends and receives of a rank alike.
                    let slot = slots[tag, default: slots.count]
                    slots[tag] = slot
                    return Transfer(
                        action: action, message: message, peer: schedule.placement.ranks[other.stage], tag: tag,
                        slot: slot)
                })
        }
        requests = Array(repeating: nil, count: slots.count)
    }

    /// Runs the whole list once: one training step, or one evaluation pass. Collective over the pipeline's ranks.
    /// - Throws: `ActionFailure` with what the executor or the transport threw; the caller ends the job.
    public func run(_ executor: any StageExecutor) throws(ActionFailure) -> StepTiming {
        var timing = StepTiming()
        let begin = monotonicSeconds()
        for position in instructions.indices {
            do {
                try run(instructions[position], executor, &timing)
                try communicator.poke()
            } catch {
                let need = need(of: instructions[position], error)
                // Give all messages up before the executor's memory may go.
                for slot in requests.indices { requests[slot] = nil }
                throw ActionFailure(
                    rank: communicator.jobRank(of: communicator.rank), rankCount: communicator.jobSize,
                    position: position, action: instructions[position].action, need: need, underlying: error,
                    executor: executor)
            }
            let kind = instructions[position].action.kind
            if kind.isCompute || kind.isMessage { timing.span = monotonicSeconds() - begin }
        }
        return timing
    }

    /// What the other rank has to do before a failed action can go on; nil when `error` is not about its messages.
    private func need(of instruction: Instruction, _ error: any Error) -> ActionFailure.Need? {
        guard let message = (error as? CommunicationError)?.message, message.channel == .pointToPoint,
            let transfer = instruction.transfers.first(where: { $0.tag == message.tag })
        else { return nil }
        let answer = transfer.message.counterpart(of: transfer.action)
        return .init(action: answer, rank: message.peer, tag: message.tag)
    }

    private func run(_ instruction: Instruction, _ executor: any StageExecutor, _ timing: inout StepTiming) throws {
        let action = instruction.action
        switch action.kind {
        case .receiveActivation, .receiveGradient:
            let transfer = instruction.transfers[0]
            let buffer = try executor.receiveBuffer(transfer.message)
            requests[transfer.slot] =
                try buffer.isUpperBound
                ? communicator.receive(upTo: buffer.bytes, from: transfer.peer, tag: transfer.tag)
                : communicator.receive(into: buffer.bytes, from: transfer.peer, tag: transfer.tag)
        case .sendActivation, .sendGradient:
            let transfer = instruction.transfers[0]
            let start = monotonicSeconds()
            let bytes = try executor.sendBuffer(transfer.message)
            requests[transfer.slot] = try communicator.send(bytes, to: transfer.peer, tag: transfer.tag)
            timing.bytesSent += bytes.count
            recorder?.record(action, start, monotonicSeconds())
        case .waitActivation, .waitGradient:
            try wait(instruction.transfers[0], &timing)
            try executor.sent(instruction.transfers[0].message)
        case .forward, .inputGradient, .weightGradient, .backward, .recompute:
            try compute(instruction, executor, &timing)
        case .reduceTied, .reduceReplicas, .step:
            let start = monotonicSeconds()
            switch action.kind {
            case .reduceTied: try executor.reduceTied()
            case .reduceReplicas: try executor.reduceReplicas(stage: action.stage)
            default: try executor.step()
            }
            let end = monotonicSeconds()
            timing.closing += end - start
            recorder?.record(action, start, end)
        }
    }

    private func compute(_ instruction: Instruction, _ executor: any StageExecutor, _ timing: inout StepTiming) throws {
        let action = instruction.action
        let unit = action.unit
        for transfer in instruction.transfers {
            let request = try wait(transfer, &timing)
            try executor.received(transfer.message, byteCount: request.receivedByteCount)
        }
        let start = monotonicSeconds()
        switch action.kind {
        case .forward: try executor.forward(unit, recorded: action.isRecorded)
        case .recompute: try executor.recompute(unit)
        case .inputGradient: try executor.inputGradient(unit)
        case .weightGradient: try executor.weightGradient(unit)
        default:
            try executor.inputGradient(unit)
            try communicator.poke()
            try executor.weightGradient(unit)
        }
        let end = monotonicSeconds()
        timing.busy += end - start
        recorder?.record(action, start, end)
    }

    /// Completes a request; time spent here is recorded under the message action that it belongs to.
    @discardableResult
    private func wait(_ transfer: Transfer, _ timing: inout StepTiming) throws -> Request {
        let request = requests[transfer.slot]!
        if try !request.test() {
            let start = monotonicSeconds()
            try request.wait(timeout: timeout)
            let end = monotonicSeconds()
            timing.waiting += end - start
            recorder?.record(transfer.action, start, end)
        }
        requests[transfer.slot] = nil
        return request
    }
}
