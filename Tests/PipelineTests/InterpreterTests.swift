import Communication
import Glibc
import Pipeline
import TestSupport
import Synchronization
import Testing

/// A model of stages over 64-bit numbers. Every result depends on every input and on the order of accumulation, so
/// equal checksums mean equal data flow. It stops on any call whose input is not there.
final class ChecksumExecutor: StageExecutor {
    /// Payloads are this many copies of the number, all checked on arrival.
    static let copies = 50

    let shape: ScheduleShape
    let placement: Placement
    let rank: Int
    var random: SplitMix?

    /// Gradient of each stage of this rank, order-sensitive.
    var gradients: [Int: UInt64] = [:]
    var calls: [String] = []
    private(set) var peakUnits = 0

    /// The end of an edge at a unit.
    private struct EdgeEnd: Hashable {
        var unit: UnitOfWork
        var edge: Int
    }

    private var inputs: [EdgeEnd: UInt64] = [:]
    private var outputs: [UnitOfWork: UInt64] = [:]
    private var kept: [UnitOfWork: UInt64] = [:]
    private var recorded: [UnitOfWork: UInt64] = [:]
    private var outputGradients: [EdgeEnd: UInt64] = [:]
    private var inputGradients: [UnitOfWork: UInt64] = [:]
    private var buffers: [StageMessage: UnsafeMutableRawBufferPointer] = [:]

    init(_ schedule: Schedule, rank: Int) {
        shape = schedule.shape
        placement = schedule.placement
        self.rank = rank
    }

    deinit { for buffer in buffers.values { buffer.deallocate() } }

    /// Nothing is left over after a step.
    var isEmpty: Bool {
        inputs.isEmpty && kept.isEmpty && recorded.isEmpty && outputGradients.isEmpty && buffers.isEmpty
    }

    private static func mix(_ values: UInt64...) -> UInt64 {
        values.reduce(0x1234_5678) { state, value in
            var generator = SplitMix(state: state ^ (value &* 0x2545_F491_4F6C_DD1D))
            return generator.next()
        }
    }

    private func enter(_ word: String, _ unit: UnitOfWork? = nil) {
        calls.append(unit.map { "\(word) \($0)" } ?? word)
        if random != nil, random!.below(4) == 0 { usleep(UInt32(random!.below(300))) }
    }

    private func isLocal(_ unit: UnitOfWork) -> Bool { placement.ranks[unit.stage] == rank }

    private func take<Key>(_ table: inout [Key: UInt64], _ key: Key, _ what: String) -> UInt64 {
        guard let value = table.removeValue(forKey: key) else { fatalError("rank \(rank): no \(what) of \(key)") }
        return value
    }

    private var edges: ClosedRange<Int> { 0...shape.skips.count }

    private func neighbour(_ unit: UnitOfWork, chunk: Int) -> UnitOfWork {
        var other = unit
        other.chunk = chunk
        return other
    }

    /// What came along the edges that end at a unit; from the data where none does.
    private func input(of unit: UnitOfWork) -> UInt64 {
        var input = Self.mix(UInt64(unit.microBatch), UInt64(unit.chunk))
        for edge in edges where shape.upstream(of: unit, edge: edge) != nil {
            input = Self.mix(input, take(&inputs, EdgeEnd(unit: unit, edge: edge), "input"))
        }
        return input
    }

    /// Hands a result to the stages of this rank that an edge leads to.
    private func handOver(
        _ value: UInt64, _ other: (Int) -> UnitOfWork?, _ table: inout [EdgeEnd: UInt64]
    ) {
        for edge in edges {
            if let unit = other(edge), isLocal(unit) { table[EdgeEnd(unit: unit, edge: edge)] = value }
        }
    }

    private func apply(_ unit: UnitOfWork, _ input: UInt64) -> UInt64 {
        let carry = unit.chunk == 0 ? 0 : outputs[neighbour(unit, chunk: unit.chunk - 1)]!
        return Self.mix(input, carry, UInt64(unit.stage))
    }

    func forward(_ unit: UnitOfWork, recorded isRecorded: Bool) throws {
        enter("F", unit)
        let input = input(of: unit)
        let output = apply(unit, input)
        outputs[unit] = output
        if isRecorded {
            recorded[unit] = Self.mix(input, output)
            peakUnits = max(peakUnits, recorded.count)
        } else if shape.hasBackward(unit.stage) {
            kept[unit] = input
        }
        handOver(output, { shape.downstream(of: unit, edge: $0) }, &inputs)
    }

    func recompute(_ unit: UnitOfWork) throws {
        enter("R", unit)
        let input = take(&kept, unit, "kept input")
        recorded[unit] = Self.mix(input, apply(unit, input))
        peakUnits = max(peakUnits, recorded.count)
    }

    func inputGradient(_ unit: UnitOfWork) throws {
        enter("I", unit)
        var outputGradient = outputs[unit]!
        for edge in edges {
            guard let other = shape.downstream(of: unit, edge: edge), shape.hasBackward(other.stage) else { continue }
            outputGradient = Self.mix(
                outputGradient, take(&outputGradients, EdgeEnd(unit: unit, edge: edge), "output gradient"))
        }
        let carry = unit.chunk == shape.chunkCount - 1 ? 0 : inputGradients[neighbour(unit, chunk: unit.chunk + 1)]!
        guard let record = recorded[unit] else { fatalError("rank \(rank): no record of \(unit)") }
        inputGradients[unit] = Self.mix(outputGradient, carry, record)
        handOver(
            inputGradients[unit]!,
            { shape.upstream(of: unit, edge: $0).flatMap { shape.hasBackward($0.stage) ? $0 : nil } }, &outputGradients)
    }

    func weightGradient(_ unit: UnitOfWork) throws {
        enter("W", unit)
        let record = take(&recorded, unit, "record")
        gradients[unit.stage] = Self.mix(gradients[unit.stage] ?? 0, record, inputGradients[unit]!)
    }

    func receiveBuffer(_ message: StageMessage) throws -> ReceiveBuffer {
        enter("RECV", message.consumer)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 8 * Self.copies, alignment: 8)
        buffers[message] = buffer
        return ReceiveBuffer(buffer)
    }

    func received(_ message: StageMessage, byteCount: Int) throws {
        let buffer = buffers.removeValue(forKey: message)!
        let numbers = buffer.bindMemory(to: UInt64.self)
        precondition(numbers.allSatisfy { $0 == numbers[0] }, "rank \(rank): damaged payload")
        let end = EdgeEnd(unit: message.consumer, edge: message.edge)
        if message.kind == .activation { inputs[end] = numbers[0] } else { outputGradients[end] = numbers[0] }
        buffer.deallocate()
    }

    func sendBuffer(_ message: StageMessage) throws -> UnsafeRawBufferPointer {
        enter("SEND", message.producer)
        let value = message.kind == .activation ? outputs[message.producer]! : inputGradients[message.producer]!
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 8 * Self.copies, alignment: 8)
        buffer.bindMemory(to: UInt64.self).initialize(repeating: value)
        buffers[message] = buffer
        return UnsafeRawBufferPointer(buffer)
    }

    func sent(_ message: StageMessage) throws {
        enter("WAIT", message.producer)
        buffers.removeValue(forKey: message)!.deallocate()
    }

    func reduceTied() throws { enter("REDUCE_TIED") }
    func reduceReplicas(stage: Int) throws { enter("REDUCE_DP") }
    func step() throws {
        enter("STEP")
        outputs.removeAll()
        inputGradients.removeAll()
    }
}

@Suite struct InterpreterTests {
    /// Runs a lowered schedule for some steps and returns every stage's gradient, 0 without backward.
    static func gradients(
        _ schedule: Schedule, eagerLimit: Int = -1, steps: Int = 2, delays: Bool = false
    ) throws -> [UInt64] {
        let parts = try InProcessWorld.run(size: schedule.ranks.count, eagerLimit: eagerLimit, timeout: 20) {
            communicator -> [Int: UInt64] in
            let interpreter = try Interpreter(schedule, communicator: communicator)
            let executor = ChecksumExecutor(schedule, rank: communicator.rank)
            if delays { executor.random = SplitMix(state: UInt64(communicator.rank)) }
            for _ in 0..<steps {
                let timing = try interpreter.run(executor)
                #expect(executor.isEmpty)
                let edges = schedule.ranks[communicator.rank].count {
                    $0.kind == .sendActivation || $0.kind == .sendGradient
                }
                #expect(timing.bytesSent == edges * 8 * ChecksumExecutor.copies)
                #expect(timing.busy >= 0 && timing.waiting >= 0 && timing.busy + timing.waiting <= timing.span)
            }
            #expect(executor.peakUnits <= schedule.peakUnits?[communicator.rank] ?? .max)
            return executor.gradients
        }
        let merged = parts.reduce(into: [:]) { $0.merge($1) { first, _ in first } }
        return (0..<schedule.shape.stageCount).map { merged[$0] ?? 0 }
    }

    /// The same stages, one after the other, on one rank.
    static func reference(_ shape: ScheduleShape) throws -> [UInt64] {
        var actions: [Action] = []
        for microBatch in 0..<shape.microBatchCount {
            let chunks = 0..<shape.chunkCount
            let stages = 0..<shape.stageCount
            actions += chunks.flatMap { chunk in
                stages.map {
                    let unit = UnitOfWork(stage: $0, microBatch: microBatch, chunk: chunk)
                    return Action(.forward, unit, recorded: shape.hasBackward($0))
                }
            }
            actions += chunks.reversed().flatMap { chunk in
                stages.reversed().filter(shape.hasBackward).map {
                    Action(.backward, UnitOfWork(stage: $0, microBatch: microBatch, chunk: chunk))
                }
            }
        }
        let schedule = Schedule(
            name: "sequential", shape: shape,
            placement: Placement(ranks: Array(repeating: 0, count: shape.stageCount)), ranks: [actions])
        return try gradients(Lowering.lower(schedule))
    }

    @Test(arguments: ["gpipe", "1f1b"], Rematerialization.allCases)
    func everyScheduleComputesTheSame(name: String, mode: Rematerialization) throws {
        for (p, m, k) in [(1, 1, 1), (2, 4, 1), (3, 2, 2), (4, 5, 3), (2, 1, 4)] {
            let request = ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k, rematerialization: mode)
            let compute = try ScheduleCatalog.training(name, request)
            let reference = try Self.reference(compute.shape)
            for eagerLimit in [-1, 1 << 20] {
                #expect(
                    try Self.gradients(Lowering.lower(compute), eagerLimit: eagerLimit) == reference,
                    "p\(p) m\(m) k\(k)")
            }
            let tight = try Lowering.lower(compute, options: LoweringOptions(receiveLookAhead: 0, sendWindow: 1))
            #expect(try Self.gradients(tight, delays: true) == reference, "p\(p) m\(m) k\(k), delayed")
        }
    }

    @Test func severalStagesPerRankHandOverInMemory() throws {
        let text = """
            schedule v
            micro_batches 2
            placement 0 1 1 0
            rank 0: F s0 m0; F s0 m1; F s3 m0; B s3 m0; F s3 m1; B s3 m1; B s0 m0; B s0 m1
            rank 1: F s1 m0; F s2 m0; F s1 m1; F s2 m1; B s2 m0; B s1 m0; I s2 m1; I s1 m1; W s1 m1; W s2 m1
            """
        let schedule = try Schedule(text: text)
        #expect(try Self.gradients(Lowering.lower(schedule)) == Self.reference(schedule.shape))
    }

    @Test(arguments: [[0, 1, 2, 3], [0, 1, 1, 0], [0, 0, 1, 2]]) func skipsCarryTheirOwnValues(placement: [Int]) throws
    {
        // Two skips join the same stages, one ends where the line does too.
        let skips = [(0, 3), (1, 3), (0, 3), (2, 3)].map { SkipEdge(fromStage: $0, toStage: $1) }
        let units = ScheduleShape(stageCount: 4, microBatchCount: 3, chunkCount: 2, skips: skips)
        let reference = try Self.reference(units)
        var withoutSkips = units
        withoutSkips.skips = []
        #expect(try reference != Self.reference(withoutSkips))
        // Fill-drain on any placement: stage by stage, then back.
        let microBatches = 0..<3
        let ranks = (0...placement.max()!).map { rank in
            let stages = placement.indices.filter { placement[$0] == rank }
            func actions(_ kind: Action.Kind, _ stages: [Int], _ chunks: [Int]) -> [Action] {
                stages.flatMap { stage in
                    microBatches.flatMap { m in
                        chunks.map { Action(kind, UnitOfWork(stage: stage, microBatch: m, chunk: $0)) }
                    }
                }
            }
            return actions(.forward, stages, [0, 1]) + actions(.backward, stages.reversed(), [1, 0])
        }
        let schedule = Schedule(name: "skips", shape: units, placement: Placement(ranks: placement), ranks: ranks)
        for options in [LoweringOptions(), LoweringOptions(receiveLookAhead: 0, sendWindow: 1)] {
            let lowered = try Lowering.lower(schedule, options: options)
            #expect(try Self.gradients(lowered) == reference)
            #expect(try Self.gradients(lowered, eagerLimit: 1 << 20, delays: true) == reference)
        }
    }

    @Test func evaluationRunsForwardsOnly() throws {
        let schedule = try Lowering.lower(
            ScheduleCatalog.evaluation(placement: .contiguous(stageCount: 3), microBatchCount: 4))
        let calls = try InProcessWorld.run(size: 3, timeout: 20) { communicator -> [String] in
            let executor = ChecksumExecutor(schedule, rank: communicator.rank)
            _ = try Interpreter(schedule, communicator: communicator).run(executor)
            return executor.calls
        }
        #expect(calls[2].filter { $0.hasPrefix("F") } == (0..<4).map { "F s2 m\($0) c0" })
        #expect(!calls.joined().contains { $0.hasPrefix("I") || $0.hasPrefix("STEP") })
    }

    @Test func aSilentPeerIsNamedAfterTheDeadline() throws {
        let schedule = try Lowering.lower(
            ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 1)))
        let words = Mutex("")
        #expect(throws: RankFailure.self) {
            _ = try InProcessWorld.run(size: 2, timeout: 60) { communicator in
                let executor = ChecksumExecutor(schedule, rank: communicator.rank)
                if communicator.rank == 0 {
                    // Alive, but never sends; ends when the other rank gives up.
                    while true {
                        try communicator.poke()
                        usleep(1000)
                    }
                }
                do {
                    _ = try Interpreter(schedule, communicator: communicator, timeout: 0.2).run(executor)
                } catch {
                    words.withLock { $0 = "\(error)" }
                    throw error
                }
            }
        }
        let message = words.withLock { $0 }
        #expect(
            message.hasPrefix(
                "[rank 1/2, stage 1] 'F s1 m0 c0' at position 1 needs 'SEND_A s0 m0 c0' of rank 0, tag 0: "),
            "\(message)")
    }

    @Test func recorderKeepsEachActionUpToItsBound() throws {
        let schedule = try Lowering.lower(
            ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: 2, microBatchCount: 3)))
        let recorded = try InProcessWorld.run(size: 2, timeout: 20) { communicator -> [TimedAction] in
            let recorder = TraceRecorder(capacity: 1000)
            let executor = ChecksumExecutor(schedule, rank: communicator.rank)
            let interpreter = try Interpreter(schedule, communicator: communicator, recorder: recorder)
            _ = try interpreter.run(executor)
            let small = TraceRecorder(capacity: 4)
            interpreter.recorder = small
            _ = try interpreter.run(executor)
            #expect(small.actions.count == 4 && small.droppedCount > 0)
            return recorder.actions
        }
        for rank in 0..<2 {
            let compute = recorded[rank].filter { !$0.action.kind.isMessage }.map(\.action)
            #expect(compute == schedule.ranks[rank].filter { !$0.kind.isMessage })
            #expect(recorded[rank].allSatisfy { $0.start <= $0.end })
            #expect(zip(recorded[rank], recorded[rank].dropFirst()).allSatisfy { $0.end <= $1.start })
        }
    }

    @Test func measuredBubbleIsTheIdleShareOfAllRanks() {
        var timings = [StepTiming(), StepTiming()]
        timings[0].busy = 3
        timings[0].span = 4
        timings[1].busy = 1
        timings[1].span = 2
        #expect(StepTiming.bubbleFraction(timings) == 0.5)
        #expect(StepTiming.bubbleFraction([]) == 0)
    }
}
