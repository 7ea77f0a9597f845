import Communication
import Kernels

/// Runs one rank's list of a lowered schedule, action by action. It holds no policy: all order comes from the list.
///
/// Everything an action needs (message, peer, tag, where its request is kept) is worked out once, so that a step
/// allocates only what the transport needs for its requests.
public final class Interpreter {
    /// An action with everything looked up.
    private struct Instruction {
        var action: Action
        var message: StageMessage?
        var peer = 0
        var tag = 0
        /// For SEND, RECV, WAIT and for compute actions that complete a receive: index into `requests`, else −1.
        var slot = -1
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
        var instructions: [Instruction] = []
        for action in schedule.ranks[communicator.rank] {
            var instruction = Instruction(action: action)
            let isReceiver = action.kind == .receiveActivation || action.kind == .receiveGradient
            if let message = StageMessage(action, schedule.shape) ?? Self.consumed(action, schedule) {
                let other = isReceiver || action.kind.isCompute ? message.producer : message.consumer
                instruction.message = message
                instruction.peer = schedule.placement.ranks[other.stage]
                instruction.tag = tags.tag(of: message)
                // Tags tell all messages of a step apart, sends and receives of a rank alike.
                instruction.slot = slots[instruction.tag, default: slots.count]
                slots[instruction.tag] = instruction.slot
            }
            instructions.append(instruction)
        }
        self.instructions = instructions
        requests = Array(repeating: nil, count: slots.count)
    }

    /// The message from another rank that a compute action needs.
    private static func consumed(_ action: Action, _ schedule: Schedule) -> StageMessage? {
        let kind: Action.Kind
        let source: UnitOfWork?
        switch action.kind {
        case .forward: (kind, source) = (.receiveActivation, schedule.shape.upstream(of: action.unit))
        case .inputGradient, .backward: (kind, source) = (.receiveGradient, schedule.shape.downstream(of: action.unit))
        default: return nil
        }
        guard let source, schedule.placement.ranks[source.stage] != schedule.placement.ranks[action.stage] else {
            return nil
        }
        return StageMessage(Action(kind, action.unit), schedule.shape)
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
                // Give all messages up before the executor's memory may go.
                for slot in requests.indices { requests[slot] = nil }
                let instruction = instructions[position]
                throw ActionFailure(
                    rank: communicator.rank, rankCount: communicator.size, position: position,
                    action: instruction.action, peer: instruction.message.map { _ in instruction.peer },
                    tag: instruction.message.map { _ in instruction.tag }, underlying: error)
            }
            if !instructions[position].action.kind.isGlobal { timing.span = monotonicSeconds() - begin }
        }
        return timing
    }

    private func run(_ instruction: Instruction, _ executor: any StageExecutor, _ timing: inout StepTiming) throws {
        let action = instruction.action
        switch action.kind {
        case .receiveActivation, .receiveGradient:
            let buffer = try executor.receiveBuffer(instruction.message!)
            requests[instruction.slot] = try communicator.receive(
                into: buffer, from: instruction.peer, tag: instruction.tag)
        case .sendActivation, .sendGradient:
            let start = monotonicSeconds()
            let bytes = try executor.sendBuffer(instruction.message!)
            requests[instruction.slot] = try communicator.send(bytes, to: instruction.peer, tag: instruction.tag)
            timing.bytesSent += bytes.count
            recorder?.record(action, start, monotonicSeconds())
        case .waitActivation, .waitGradient:
            try wait(instruction, as: action, &timing)
            try executor.sent(instruction.message!)
        case .forward, .inputGradient, .weightGradient, .backward, .recompute:
            try compute(instruction, executor, &timing)
        case .reduceTied, .reduceReplicas, .step:
            let start = monotonicSeconds()
            switch action.kind {
            case .reduceTied: try executor.reduceTied()
            case .reduceReplicas: try executor.reduceReplicas()
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
        if let message = instruction.message {
            let kind: Action.Kind = action.kind == .forward ? .receiveActivation : .receiveGradient
            try wait(instruction, as: Action(kind, unit), &timing)
            try executor.received(message)
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
    private func wait(_ instruction: Instruction, as action: Action, _ timing: inout StepTiming) throws {
        let request = requests[instruction.slot]!
        if try !request.test() {
            let start = monotonicSeconds()
            try request.wait(timeout: timeout)
            let end = monotonicSeconds()
            timing.waiting += end - start
            recorder?.record(action, start, end)
        }
        requests[instruction.slot] = nil
    }
}
