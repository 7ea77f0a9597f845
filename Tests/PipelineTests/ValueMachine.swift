import Pipeline
import TestSupport

/// Judges a schedule by running it on numbers: all ranks in one thread, in any order, messages by rendezvous.
///
/// Written apart from `Verifier` and `ScheduleWalk` on purpose: it knows what F, I, W, messages and reductions do to
/// values, and nothing of dependencies. Every value depends on all its inputs and on the order of accumulation, so a
/// schedule is right when no rank is left waiting, nothing is done twice, nothing is left over, and the parameters after
/// the step equal those of plain loops over the model.
struct ValueMachine {
    /// Why a schedule is wrong; nil when it is right. `random` picks the rank that moves next: delays of any length.
    static func fault(_ schedule: Schedule, random: SplitMix? = nil) -> String? {
        var machine = ValueMachine(schedule)
        do {
            try machine.runAll(random)
            try machine.checkEnd()
            return nil
        } catch {
            return error.reason
        }
    }

    private struct Fault: Error {
        var reason: String
    }

    private struct MessageKey: Hashable {
        var isGradient: Bool
        var producer: UnitOfWork
        var edge: Int
    }

    private struct Message {
        var value: UInt64?
        var isPosted = false
        var isConsumed = false
        var isWaitedFor = false
    }

    private let schedule: Schedule
    private let shape: ScheduleShape
    private var positions: [Int]
    private var live: [Int]
    private var outputs: [UnitOfWork: UInt64] = [:]
    private var kept: [UnitOfWork: UInt64] = [:]
    private var records: [UnitOfWork: UInt64] = [:]
    private var inputGradients: [UnitOfWork: UInt64] = [:]
    /// By stage, as the next three.
    private var gradients: [Int: UInt64] = [:]
    /// Those that cannot be postponed: layers that recompute themselves add them with the input gradient.
    private var earlyGradients: [Int: UInt64] = [:]
    private var reduced: [Int: UInt64] = [:]
    private var parameters: [Int: UInt64] = [:]
    private var messages: [MessageKey: Message] = [:]
    private var isTied: [Bool]
    private var hasStepped: [Bool]

    private init(_ schedule: Schedule) {
        self.schedule = schedule
        shape = schedule.shape
        positions = schedule.ranks.map { _ in 0 }
        live = positions
        isTied = schedule.ranks.map { _ in false }
        hasStepped = isTied
    }

    private mutating func runAll(_ random: SplitMix?) throws(Fault) {
        var random = random
        while true {
            var movable = schedule.ranks.indices.filter { positions[$0] < schedule.ranks[$0].count }
            if movable.isEmpty { return }
            if random != nil { movable.shuffle(using: &random!) }
            var moved = false
            for rank in movable where try run(schedule.ranks[rank][positions[rank]], rank) {
                positions[rank] += 1
                moved = true
                if random != nil { break }
            }
            if !moved { throw Fault(reason: "ranks \(movable) wait for ever") }
        }
    }

    /// Performs an action; false when it has to wait.
    private mutating func run(_ action: Action, _ rank: Int) throws(Fault) -> Bool {
        let unit = action.unit
        func check(_ condition: Bool, _ reason: String) throws(Fault) {
            if !condition { throw Fault(reason: "rank \(rank): '\(action)' \(reason)") }
        }
        if !action.kind.isGlobal {
            try check(shape.contains(unit) && schedule.placement.ranks[unit.stage] == rank, "is not at home")
        }
        if !action.kind.isCompute { try check(schedule.isLowered, "has no place before lowering") }
        if action.kind != .step { try check(!isTied[rank], "follows REDUCE_TIED") }
        if action.kind.isMessage {
            let isGradient = [.sendGradient, .receiveGradient, .waitGradient].contains(action.kind)
            let isReceive = action.kind == .receiveActivation || action.kind == .receiveGradient
            let other =
                isGradient != isReceive
                ? shape.upstream(of: unit, edge: action.edge) : shape.downstream(of: unit, edge: action.edge)
            try check(other.map { isRemote($0, unit) } ?? false, "has no edge")
            try check(
                !isGradient || shape.hasBackward(unit.stage) && shape.hasBackward(other!.stage),
                "is a gradient where there is none")
            let key = MessageKey(isGradient: isGradient, producer: isReceive ? other! : unit, edge: action.edge)
            var message = messages[key] ?? Message()
            switch action.kind {
            case .sendActivation, .sendGradient:
                guard let value = isGradient ? inputGradients[unit] : outputs[unit] else { return false }
                try check(message.value == nil, "sends twice")
                message.value = value
            case .receiveActivation, .receiveGradient:
                try check(!message.isPosted, "receives twice")
                message.isPosted = true
            default:
                guard message.value != nil, message.isPosted else { return false }
                try check(!message.isWaitedFor, "waits twice")
                message.isWaitedFor = true
            }
            messages[key] = message
            return true
        }
        switch action.kind {
        case .forward:
            try check(outputs[unit] == nil, "is done twice")
            try check(shape.hasBackward(unit.stage) || !action.isRecorded, "records without need")
            var value = Self.data(unit)
            if unit.chunk > 0 {
                guard let carry = outputs[Self.neighbour(unit, -1)] else { return false }
                value = Self.mix(value, carry)
            }
            guard let arrived = arrivals(unit, false) else { return false }
            for (_, input) in arrived { value = Self.mix(value, input) }
            consume(arrived)
            outputs[unit] = Self.mix(value, UInt64(unit.stage))
            if action.isRecorded { try record(unit, rank) } else if shape.hasBackward(unit.stage) { kept[unit] = 0 }
        case .recompute:
            guard outputs[unit] != nil else { return false }
            try check(kept.removeValue(forKey: unit) != nil, "has nothing to recompute")
            try record(unit, rank)
        case .inputGradient, .backward:
            try check(inputGradients[unit] == nil, "is done twice")
            guard let record = records[unit] else { return false }
            var value = record
            if unit.chunk < shape.chunkCount - 1 {
                guard let carry = inputGradients[Self.neighbour(unit, 1)] else { return false }
                value = Self.mix(value, carry)
            }
            guard let arrived = arrivals(unit, true) else { return false }
            for (_, gradient) in arrived { value = Self.mix(value, gradient) }
            consume(arrived)
            inputGradients[unit] = value
            earlyGradients[unit.stage] = Self.mix(earlyGradients[unit.stage] ?? 0, value)
            if action.kind == .backward { accumulate(unit, rank) }
        case .weightGradient:
            guard inputGradients[unit] != nil else { return false }
            try check(records[unit] != nil, "is done twice")
            accumulate(unit, rank)
        case .reduceReplicas:
            try check(schedule.reducesReplicas, "has no replicas")
            try check(reduced[unit.stage] == nil && shape.hasBackward(unit.stage), "is done twice or in vain")
            reduced[unit.stage] = gradients[unit.stage] ?? 0
        case .reduceTied:
            isTied[rank] = true
        default:
            try check(isTied[rank] && positions[rank] == schedule.ranks[rank].count - 1, "is not the last")
            hasStepped[rank] = true
            for stage in schedule.placement.stages(of: rank) {
                parameters[stage] = schedule.reducesReplicas ? reduced[stage] : gradients[stage]
            }
        }
        return true
    }

    private mutating func record(_ unit: UnitOfWork, _ rank: Int) throws(Fault) {
        records[unit] = outputs[unit]!
        live[rank] += 1
        if let peak = schedule.peakUnits, live[rank] > peak[rank] {
            throw Fault(reason: "rank \(rank): too much memory")
        }
    }

    private mutating func accumulate(_ unit: UnitOfWork, _ rank: Int) {
        gradients[unit.stage] = Self.mix(
            gradients[unit.stage] ?? 0, records.removeValue(forKey: unit)!, inputGradients[unit]!)
        live[rank] -= 1
    }

    /// What the edges bring to a unit's F (or I), with the message that brought it; nil when something is not there.
    private func arrivals(_ unit: UnitOfWork, _ isGradient: Bool) -> [(MessageKey?, UInt64)]? {
        var result: [(MessageKey?, UInt64)] = []
        for edge in 0...shape.skips.count {
            let other = isGradient ? shape.downstream(of: unit, edge: edge) : shape.upstream(of: unit, edge: edge)
            guard let other, !isGradient || shape.hasBackward(other.stage) else { continue }
            if schedule.isLowered, isRemote(other, unit) {
                let key = MessageKey(isGradient: isGradient, producer: other, edge: edge)
                guard let message = messages[key], message.isPosted, let value = message.value else { return nil }
                result.append((key, value))
            } else {
                guard let value = isGradient ? inputGradients[other] : outputs[other] else { return nil }
                result.append((nil, value))
            }
        }
        return result
    }

    private mutating func consume(_ arrived: [(MessageKey?, UInt64)]) {
        for case (let key?, _) in arrived { messages[key]!.isConsumed = true }
    }

    private func isRemote(_ a: UnitOfWork, _ b: UnitOfWork) -> Bool {
        schedule.placement.ranks[a.stage] != schedule.placement.ranks[b.stage]
    }

    private func checkEnd() throws(Fault) {
        guard kept.isEmpty, records.isEmpty,
            messages.values.allSatisfy({ $0.value != nil && $0.isPosted && $0.isConsumed && $0.isWaitedFor })
        else { throw Fault(reason: "something is left over") }
        let reference = Reference(shape)
        guard outputs == reference.outputs else { throw Fault(reason: "other outputs") }
        guard shape.purpose == .training else { return }
        guard !schedule.isLowered || !hasStepped.contains(false) else { throw Fault(reason: "no step") }
        guard (schedule.isLowered ? parameters : gradients) == reference.gradients else {
            throw Fault(reason: "other gradients")
        }
        guard earlyGradients == reference.earlyGradients else {
            throw Fault(reason: "other gradients that are not postponed")
        }
    }

    // What the model computes.

    /// Plain loops over the model, without ranks.
    private struct Reference {
        var outputs: [UnitOfWork: UInt64] = [:]
        var gradients: [Int: UInt64] = [:]
        var earlyGradients: [Int: UInt64] = [:]

        init(_ shape: ScheduleShape) {
            var inputGradients: [UnitOfWork: UInt64] = [:]
            for m in 0..<shape.microBatchCount {
                for c in 0..<shape.chunkCount {
                    for stage in 0..<shape.stageCount {
                        let unit = UnitOfWork(stage: stage, microBatch: m, chunk: c)
                        var value = ValueMachine.data(unit)
                        if c > 0 { value = ValueMachine.mix(value, outputs[ValueMachine.neighbour(unit, -1)]!) }
                        for edge in 0...shape.skips.count {
                            guard let other = shape.upstream(of: unit, edge: edge) else { continue }
                            value = ValueMachine.mix(value, outputs[other]!)
                        }
                        outputs[unit] = ValueMachine.mix(value, UInt64(stage))
                    }
                }
                for c in (0..<shape.chunkCount).reversed() {
                    for stage in (0..<shape.stageCount).reversed() where shape.hasBackward(stage) {
                        let unit = UnitOfWork(stage: stage, microBatch: m, chunk: c)
                        var value = outputs[unit]!
                        if c < shape.chunkCount - 1 {
                            value = ValueMachine.mix(value, inputGradients[ValueMachine.neighbour(unit, 1)]!)
                        }
                        for edge in 0...shape.skips.count {
                            guard let other = shape.downstream(of: unit, edge: edge), shape.hasBackward(other.stage)
                            else { continue }
                            value = ValueMachine.mix(value, inputGradients[other]!)
                        }
                        inputGradients[unit] = value
                        gradients[stage] = ValueMachine.mix(gradients[stage] ?? 0, outputs[unit]!, value)
                        earlyGradients[stage] = ValueMachine.mix(earlyGradients[stage] ?? 0, value)
                    }
                }
            }
        }
    }

    private static func data(_ unit: UnitOfWork) -> UInt64 {
        mix(UInt64(unit.microBatch), UInt64(unit.chunk))
    }

    private static func neighbour(_ unit: UnitOfWork, _ chunks: Int) -> UnitOfWork {
        var other = unit
        other.chunk += chunks
        return other
    }

    private static func mix(_ values: UInt64...) -> UInt64 {
        values.reduce(0x1234_5678) { state, value in
            var generator = SplitMix(state: state ^ (value &* 0x2545_F491_4F6C_DD1D))
            return generator.next()
        }
    }
}
