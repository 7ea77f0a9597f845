import Autograd
import Kernels
import Models
import Tensors

/// Runs the layers of the stages that one rank owns, unit by unit, and keeps what the backward pass
/// and the neighbours need. It knows nothing of messages beyond their buffers.
///
/// Not collective; belongs to the rank's thread.
public final class StageRuntime {
    /// Live state of one unit between its forward and its last backward half.
    private final class LiveUnit {
        var tape: Tape
        /// What entered; kept alone when the unit is to be recomputed.
        var input: Flow?
        var carryIn: [Int: Carry] = [:]
        /// What came along links from other stages, by edge; kept with the input.
        var linkInputs: [Int: Variable] = [:]
        var output = StagePass.Output()

        init(tape: Tape) { self.tape = tape }
    }

    private enum Slot: Hashable {
        case activation(UnitOfWork, edge: Int = 0)
        case gradient(UnitOfWork, edge: Int = 0)
    }

    public let model: Model
    public let context: ComputeContext
    /// Layers of every stage of the pipeline.
    public let stageLayers: [Range<Int>]
    /// Stages that keep nothing for a backward, and to which no gradients go.
    private let forwardOnly: Set<Int>
    private let seed: UInt64
    private let routing: LinkRouting

    private var cut = BatchCut(rows: 0, time: 0, microBatchCount: 1, chunkCount: 1)
    private var batch = TokenBatch(rows: 0, time: 0, inputs: [], targets: [], restarts: [])
    private var stepNumber = 0
    private var isTraining = true
    private var routesCausally = false
    private var lossScale: Float = 0
    private var prefixScale: Float = 0
    /// Per unit with the head, what `HeadLayer.losses` returned.
    private var losses: [[LossSum]?] = []
    /// Per auxiliary term of the model, its value in each unit of the batch.
    private var auxiliary: [AuxiliaryLosses.Key: [Double]] = [:]
    /// Per statistic of the model, its sums in each unit of the batch.
    private var statistics: [AuxiliaryLosses.Key: [LayerStatistics.Sum]] = [:]

    private var live: [UnitOfWork: LiveUnit] = [:]
    /// Activations and gradients that wait for their consumer or for their send to complete.
    private var mailbox: [Slot: Parcel] = [:]
    /// Buffers of messages on their way, in or out.
    private var messages: [Slot: Tensor] = [:]
    /// Gradients of a unit's carry out, left by the following chunk.
    private var carryGradients: [UnitOfWork: [Int: [Tensor?]]] = [:]
    /// Carry for the chunk that follows, per (micro-batch, layer).
    private var pendingCarry: [CarryKey: Carry] = [:]
    /// State kept across batches when the data are streams, per (micro-batch, layer).
    public private(set) var batchCarry: [CarryKey: Carry] = [:]

    public struct CarryKey: Hashable, Sendable {
        public let microBatch: Int
        public let layer: Int

        public init(microBatch: Int, layer: Int) {
            self.microBatch = microBatch
            self.layer = layer
        }
    }

    /// When set, the head stores the logits of the whole batch `[B·T, V]` there (`probe`).
    public var capturedLogits: Tensor?
    /// Hands state from one batch to the next.
    public var keepsCarryAcrossBatches = false
    /// What `REDUCE_DP`, `REDUCE_TIED` and `STEP` do; set by whoever owns gradients and optimiser.
    public var onReduceReplicas: ((_ stage: Int) throws -> Void)?
    public var onReduceTied: (() throws -> Void)?
    public var onStep: (() throws -> Void)?

    public init(
        model: Model, stageLayers: [Range<Int>], forwardOnly: Set<Int> = [], seed: UInt64, context: ComputeContext
    ) {
        self.model = model
        self.forwardOnly = forwardOnly
        self.context = context
        self.stageLayers = stageLayers
        self.seed = seed
        routing = LinkRouting(model.links, stageLayers: stageLayers)
    }

    // MARK: Step

    /// Prepares the runtime for the units of one batch.
    ///
    /// - Parameters:
    ///   - step: keys the random draws; 0 in evaluation.
    ///   - routesCausally: whether routers choose as in generation.
    public func begin(batch: TokenBatch, cut: BatchCut, step: Int, isTraining: Bool, routesCausally: Bool = false) {
        self.batch = batch
        self.cut = cut
        stepNumber = step
        self.isTraining = isTraining
        self.routesCausally = routesCausally
        lossScale = Float(1 / Double(max(1, batch.targetCount)))
        prefixScale = Float((batch.prefix?.weight ?? 0) / Double(max(1, batch.prefixTargetCount)))
        losses = Array(repeating: nil, count: cut.microBatchCount * cut.chunkCount)
        auxiliary.removeAll(keepingCapacity: true)
        statistics.removeAll(keepingCapacity: true)
        if keepsCarryAcrossBatches { dropRestartedRows() } else { batchCarry.removeAll() }
    }

    /// The batch's sums of the head's loss terms (`HeadLayer.lossTerms`) in nats, that of a prefix left out, added in
    /// micro-batch, then chunk order, in Double; 0 on ranks without the head. Complete once all units of the batch have run.
    public var lossTotals: [Double] {
        let nothing = model.head.lossTerms.map { _ in 0.0 }
        if batch.prefix != nil { return [rowLossTotal(inPrefix: false)] + nothing.dropFirst() }
        return losses.reduce(nothing) { sums, losses in
            losses.map { zip(sums, model.head.termTotals($0)).map { $0 + $1 } } ?? sums
        }
    }

    /// The sum over the prefix, without its weight.
    public var prefixLossTotal: Double { rowLossTotal(inPrefix: true) }

    private func rowLossTotal(inPrefix: Bool) -> Double {
        losses.enumerated().reduce(0) { sum, unit in
            let time = cut.positions(ofChunk: unit.offset % cut.chunkCount).count
            let border = prefixTime(ofChunk: unit.offset % cut.chunkCount)
            let rowLosses = unit.element?[0].rowLosses ?? []
            return sum
                + rowLosses.enumerated().reduce(0) {
                    ($1.offset % time < border) == inPrefix ? $0 + Double($1.element) : $0
                }
        }
    }

    /// Positions of a chunk that lie in the prefix.
    private func prefixTime(ofChunk chunk: Int) -> Int {
        let positions = cut.positions(ofChunk: chunk)
        return min(max(0, (batch.prefix?.length ?? 0) - positions.lowerBound), positions.count)
    }

    /// `[B]`: counted targets of every row that have the largest logit, in evaluation; 0 on ranks without the head.
    public var hitCounts: [Int] {
        var result = [Int](repeating: 0, count: batch.rows)
        for (place, loss) in losses.enumerated() {
            guard let loss = loss?.first else { continue }
            let time = cut.positions(ofChunk: place % cut.chunkCount).count
            for (i, row) in cut.rows(ofMicroBatch: place / cut.chunkCount).enumerated() {
                result[row] += Int(loss.hits[i * time..<(i + 1) * time].reduce(0, +))
            }
        }
        return result
    }

    /// What this rank's layers added to the loss of the batch, for each of the model's auxiliary terms: the sum over its
    /// units in micro-batch, then chunk order, ÷ all micro-batches of the batch; 0 for terms of other ranks.
    public var auxiliaryTotals: [Double] {
        model.auxiliaryTerms.map { term in
            (auxiliary[term] ?? []).reduce(0, +) / Double(cut.totalMicroBatchCount)
        }
    }

    /// For each of the model's statistics the sum over this rank's units of an evaluation, in micro-batch, then chunk order.
    public var statisticTotals: [LayerStatistics.Sum] {
        model.statisticTerms.map { term in (statistics[term] ?? []).reduce(into: .init()) { $0 += $1 } }
    }

    /// Ends the batch: state for the next one moves in, and nothing may be left over.
    public func finish() {
        require(
            live.isEmpty && mailbox.isEmpty && messages.isEmpty && carryGradients.isEmpty,
            "StageRuntime.finish: \(live.count) units, \(mailbox.count + messages.count) buffers and \(carryGradients.count) carry gradients are left over"
        )
        if keepsCarryAcrossBatches {
            batchCarry = pendingCarry.mapValues { $0.filter(\.crossesBatches).map { $0.detached() } }
        }
        pendingCarry.removeAll()
    }

    /// Takes over saved state (resume, or the return from a validation run).
    public func restoreBatchCarry(_ carry: [CarryKey: Carry]) { batchCarry = carry }

    /// Drops all that an interrupted batch left behind.
    public func abandon() {
        live.removeAll()
        mailbox.removeAll()
        messages.removeAll()
        carryGradients.removeAll()
        pendingCarry.removeAll()
    }

    private func dropRestartedRows() {
        guard batch.restarts.contains(true) else { return }
        for (key, carry) in batchCarry {
            let rows = cut.rows(ofMicroBatch: key.microBatch)
            for tensor in carry.map(\.variable.value) {
                let width = tensor.count / rows.count
                for (i, row) in rows.enumerated() where batch.restarts[row] {
                    (tensor.pointer + i * width).update(repeating: 0, count: width)
                }
            }
        }
    }

    // MARK: Units

    private func hasBackward(_ stage: Int) -> Bool { !forwardOnly.contains(stage) }

    private func isFirst(_ stage: Int) -> Bool { stageLayers[stage].lowerBound == 0 }

    private func neighbour(_ unit: UnitOfWork, _ offset: Int) -> UnitOfWork {
        var other = unit
        other.stage += offset
        return other
    }

    /// The same work in the stage where a link ends, or starts.
    private func end(of edge: Int, _ unit: UnitOfWork) -> UnitOfWork {
        neighbour(unit, routing.edges[edge - 1].toStage - unit.stage)
    }

    private func start(of edge: Int, _ unit: UnitOfWork) -> UnitOfWork {
        neighbour(unit, routing.edges[edge - 1].fromStage - unit.stage)
    }

    private func run(_ unit: UnitOfWork, _ state: LiveUnit) {
        let pass = pass(unit, state.tape)
        let (rows, positions) = (cut.rows(ofMicroBatch: unit.microBatch), cut.positions(ofChunk: unit.chunk))
        let place = unit.microBatch * cut.chunkCount + unit.chunk
        state.output = StagePass(model: model, routing: routing, layers: stageLayers[unit.stage], pass: pass).run(
            state.input, links: state.linkInputs, carry: state.carryIn,
            embed: {
                tokens(batch.inputs, rows, positions).withUnsafeBufferPointer {
                    model.embedding.forward($0.baseAddress!, pass)
                }
            },
            finish: { flow in
                let logits = capturedLogits.map { _ in context.tensor(Shape(pass.rows, model.vocabularySize)) }
                let unitLosses = tokens(batch.targets, rows, positions).withUnsafeBufferPointer {
                    model.head.losses(
                        flow, targets: $0.baseAddress!, scales: scales(ofChunk: unit.chunk, pass), logits: logits, pass)
                }
                if let logits { capture(logits, rows, positions, after: unitLosses[0], on: state.tape) }
                losses[place] = unitLosses
            })
        for (term, value) in pass.auxiliary?.values ?? [:] {
            auxiliary[term, default: Array(repeating: 0, count: losses.count)][place] = value
        }
        for (term, value) in pass.statistics?.values ?? [:] {
            statistics[term, default: Array(repeating: .init(), count: losses.count)][place] = value
        }
    }

    private func pass(_ unit: UnitOfWork, _ tape: Tape) -> Pass {
        let rows = cut.rows(ofMicroBatch: unit.microBatch)
        let positions = cut.positions(ofChunk: unit.chunk)
        return Pass(
            tape: tape, batch: rows.count, time: positions.count, positionOffset: positions.lowerBound, seed: seed,
            step: stepNumber, samples: rows.map(UInt32.init), isTraining: isTraining,
            routesCausally: routesCausally,
            auxiliary: isTraining ? AuxiliaryLosses(scale: Float(1 / Double(cut.totalMicroBatchCount))) : nil,
            statistics: isTraining ? nil : LayerStatistics())
    }

    /// `[B·T]`: factors on the gradients of a unit's token losses.
    private func scales(ofChunk chunk: Int, _ pass: Pass) -> [Float] {
        let border = prefixTime(ofChunk: chunk)
        return (0..<pass.rows).map { $0 % pass.time < border ? prefixScale : lossScale }
    }

    private func tokens(_ all: [Int32], _ rows: Range<Int>, _ positions: Range<Int>) -> [Int32] {
        if positions.count == batch.time {
            return Array(all[rows.lowerBound * batch.time..<rows.upperBound * batch.time])
        }
        return rows.flatMap { all[$0 * batch.time + positions.lowerBound..<$0 * batch.time + positions.upperBound] }
    }

    /// Logits exist once the loss has been computed, which on a recording tape is in the backward pass.
    private func capture(
        _ logits: Tensor, _ rows: Range<Int>, _ positions: Range<Int>, after loss: LossSum, on tape: Tape
    ) {
        let sink = capturedLogits!
        let (time, width) = (batch.time, model.vocabularySize)
        loss.whenComputed {
            for (i, row) in rows.enumerated() {
                (sink.pointer + (row * time + positions.lowerBound) * width)
                    .update(from: logits.pointer + i * positions.count * width, count: positions.count * width)
            }
        }
    }

    private func carryIn(for unit: UnitOfWork) -> [Int: Carry] {
        var result: [Int: Carry] = [:]
        for index in stageLayers[unit.stage] where model.layers[index] is any HiddenLayer {
            let key = CarryKey(microBatch: unit.microBatch, layer: index)
            if unit.chunk == 0 {
                result[index] = batchCarry[key]?.map { $0.detached() }
            } else {
                result[index] = pendingCarry[key]?.map { $0.detached(needsGradient: isTraining) }
            }
        }
        return result
    }
}

extension StageRuntime: StageExecutor {
    public func forward(_ unit: UnitOfWork, recorded: Bool) throws {
        let state = LiveUnit(tape: Tape(context, isRecording: recorded && isTraining))
        if !isFirst(unit.stage) {
            let arrived = arrived(.activation(unit))
            state.input = Flow(
                Variable(arrived.tensor, needsGradient: isTraining), selection: arrived.selection)
        }
        for (number, link) in routing.edges.enumerated() where link.toStage == unit.stage {
            state.linkInputs[number + 1] = Variable(
                arrived(.activation(unit, edge: number + 1)).tensor, needsGradient: isTraining)
        }
        state.carryIn = carryIn(for: unit)
        run(unit, state)
        for (index, carry) in state.output.carry {
            pendingCarry[CarryKey(microBatch: unit.microBatch, layer: index)] = carry.map { $0.detached() }
        }
        // A stage on another rank fetches these with `sendBuffer`; one on this rank finds them here.
        if let flow = state.output.flow { mailbox[.activation(neighbour(unit, 1))] = Parcel(flow) }
        for (edge, output) in state.output.links {
            mailbox[.activation(end(of: edge, unit), edge: edge)] = Parcel(output.value)
        }
        guard isTraining, hasBackward(unit.stage) else { return }
        if !recorded { state.output = StagePass.Output() }
        live[unit] = state
    }

    public func recompute(_ unit: UnitOfWork) throws {
        let state = liveUnit(unit)
        state.tape = Tape(context)
        run(unit, state)
    }

    public func inputGradient(_ unit: UnitOfWork) throws {
        let state = liveUnit(unit)
        if let output = state.output.flow?.activation, hasBackward(unit.stage + 1) {
            output.accumulate(arrived(.gradient(unit)).tensor, context)
        }
        for (edge, output) in state.output.links where hasBackward(routing.edges[edge - 1].toStage) {
            output.accumulate(arrived(.gradient(unit, edge: edge)).tensor, context)
        }
        if let gradients = carryGradients.removeValue(forKey: unit) {
            for (index, tensors) in gradients {
                for (carry, gradient) in zip(state.output.carry[index]!, tensors) {
                    if let gradient { carry.variable.accumulate(gradient, context) }
                }
            }
        }
        let carryOut = state.output.carry
        state.output = StagePass.Output()
        withExtendedLifetime(carryOut) { state.tape.inputGradients() }
        if unit.chunk > 0 {
            var previous = unit
            previous.chunk -= 1
            carryGradients[previous] = state.carryIn.mapValues { $0.map { $0.variable.takeGradient() } }
        }
        state.carryIn.removeAll()
        // Only an input that nothing used has no gradient; the stage it came from still waits for one.
        if let input = state.input?.activation, hasBackward(unit.stage - 1) {
            mailbox[.gradient(neighbour(unit, -1))] = Parcel(input.takeGradient() ?? context.zeros(input.shape))
        }
        state.input = nil
        for (edge, input) in state.linkInputs where hasBackward(routing.edges[edge - 1].fromStage) {
            mailbox[.gradient(start(of: edge, unit), edge: edge)] =
                Parcel(input.takeGradient() ?? context.zeros(input.shape))
        }
        state.linkInputs.removeAll()
    }

    public func weightGradient(_ unit: UnitOfWork) throws {
        liveUnit(unit).tape.weightGradients()
        live.removeValue(forKey: unit)
    }

    public func receiveBuffer(_ message: StageMessage) throws -> ReceiveBuffer {
        let tensor = context.tensor(
            MessageLayout(message, model, routing, stageLayers, unitPass(message)).shape, .messages)
        messages[slot(message)] = tensor
        return ReceiveBuffer(bytes(tensor), isUpperBound: MessageLayout.isRouted(message, model, stageLayers))
    }

    public func received(_ message: StageMessage, byteCount: Int) throws {
        let slot = slot(message)
        let layout = MessageLayout(message, model, routing, stageLayers, unitPass(message))
        mailbox[slot] = layout.parcel(messages.removeValue(forKey: slot)!, byteCount: byteCount, context)
    }

    private func unitPass(_ message: StageMessage) -> Pass {
        pass(message.consumer, Tape(context, isRecording: false))
    }

    public func sendBuffer(_ message: StageMessage) throws -> UnsafeRawBufferPointer {
        let slot = slot(message)
        let tensor = arrived(slot).packed(context)
        messages[slot] = tensor
        return UnsafeRawBufferPointer(bytes(tensor))
    }

    public func sent(_ message: StageMessage) throws { messages.removeValue(forKey: slot(message)) }

    public func reduceReplicas(stage: Int) throws { try onReduceReplicas?(stage) }

    public func reduceTied() throws { try onReduceTied?() }

    public func step() throws { try onStep?() }

    private func slot(_ message: StageMessage) -> Slot {
        message.kind == .activation
            ? .activation(message.consumer, edge: message.edge) : .gradient(message.consumer, edge: message.edge)
    }

    private func arrived(_ slot: Slot) -> Parcel {
        guard let parcel = mailbox.removeValue(forKey: slot) else {
            fatalError("StageRuntime: nothing has come for \(slot)")
        }
        return parcel
    }

    private func bytes(_ tensor: Tensor) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: tensor.pointer, count: tensor.count * MemoryLayout<Float>.stride)
    }

    private func liveUnit(_ unit: UnitOfWork) -> LiveUnit {
        guard let state = live[unit] else { fatalError("StageRuntime: \(unit) is not in flight") }
        return state
    }
}
