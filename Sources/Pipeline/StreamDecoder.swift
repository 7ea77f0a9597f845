import Autograd
import Communication
import Kernels
import Models
import Tensors

/// Continues several independent sequences token by token under the pipeline: one token of each sequence is a
/// micro-batch of a forward-only schedule, so that with as many sequences as ranks every rank is busy.
///
/// Each rank keeps the state of its own layers: a constant amount for recurrent layers, keys and values for attention.
/// The rank of the head draws the next token and sends it to the rank of the embedding, one sequence at a time; there
/// is no other traffic but the activations. By an `ExitRule` tokens may leave out applications of a shared block; where a
/// stage ends among these, what is known of the token goes with its activation.
public final class StreamDecoder {
    /// One sequence's state on this rank.
    private struct Stream {
        var carry: [Int: Carry] = [:]
        /// What the token under way leaves in slots that several layers share, each of which finds what tokens before it left.
        var slots: [Int: Carry] = [:]
        /// Tokens consumed, as positions are counted.
        var position = 0
        /// Everything so far; kept where the embedding is.
        var history: [Int32]
        /// How many tokens the next step consumes; known on every rank.
        var inputCount: Int
        /// Of the token under way.
        var exit: TokenExit?
    }

    private struct Slot: Hashable {
        let consumer: UnitOfWork
        let edge: Int
    }

    private let model: Model
    private let stageLayers: [Range<Int>]
    private let communicator: any Communicator
    private let context: ComputeContext
    private let interpreter: Interpreter
    private let embeddingRank, headRank: Int
    private let sample: (_ stream: Int, _ logits: UnsafeBufferPointer<Float>) -> Int32

    private var streams: [Stream]
    /// Per sequence; filled on the head's rank.
    private var drawn: [[Int32]]
    private let routing: LinkRouting
    private let exitPlan: ExitPlan?
    /// Tokens that came through a shared block one by one, and their applications; where the layer behind it is.
    private var exits = (tokens: 0, iterations: 0)
    /// Activations on their way, by consumer and edge.
    private var mailbox: [Slot: Parcel] = [:]
    /// Buffers of messages on their way, in or out.
    private var messages: [Slot: Tensor] = [:]
    /// Tokens on their way from the head to the embedding, per stream.
    private var tokenRequests: [Request?]
    private let tokens: UnsafeMutablePointer<Int32>
    private var stepCount = 0
    /// Whether the latest tokens have already reached the embedding's rank.
    private var isCaughtUp = false

    /// - Parameters:
    ///   - prompts: one per sequence, none empty.
    ///   - placement: where the stages lie.
    ///   - exit: a rule that the model can follow (`ExitRule.problem`); nil takes every token all the way.
    ///   - sample: draws the next token of a sequence from `[V]` logits; called on the head's rank.
    /// - Throws: `ScheduleError` when there are more sequences than the transport has tags for.
    public init(
        model: Model, stageLayers: [Range<Int>], placement: Placement, prompts: [[Int32]],
        communicator: any Communicator, context: ComputeContext, exit: ExitRule? = nil,
        sample: @escaping (_ stream: Int, _ logits: UnsafeBufferPointer<Float>) -> Int32
    ) throws {
        require(prompts.allSatisfy { !$0.isEmpty }, "StreamDecoder: got an empty prompt; expected at least one token")
        self.model = model
        self.stageLayers = stageLayers
        self.communicator = communicator
        self.context = context
        self.sample = sample
        embeddingRank = placement.ranks[0]
        headRank = placement.ranks[placement.stageCount - 1]
        routing = LinkRouting(model.links, stageLayers: stageLayers, unused: .exit)
        var schedule = ScheduleCatalog.evaluation(
            placement: placement, microBatchCount: prompts.count, chunkCount: 1)
        schedule.shape.skips = routing.edges
        interpreter = try Interpreter(try Lowering.lower(schedule), communicator: communicator)
        // Tokens use the highest tags; the schedule's messages must leave them free.
        _ = try MessageTags(schedule.shape, largestTag: communicator.largestTag - prompts.count)
        if let problem = exit?.problem(model, stageLayers: stageLayers, placement: placement) {
            fatalError("StreamDecoder: \(problem)")
        }
        exitPlan = exit.map { ExitPlan($0, model) }
        streams = prompts.map { Stream(history: $0, inputCount: $0.count) }
        drawn = Array(repeating: [], count: prompts.count)
        tokenRequests = Array(repeating: nil, count: prompts.count)
        tokens = .allocate(capacity: prompts.count)
        tokens.initialize(repeating: 0, count: prompts.count)
        guard let exitPlan else { return }
        for index in streams.indices {
            streams[index].exit = TokenExit(exitPlan, context) { [unowned self] in logits(of: $0, stream: index) }
        }
    }

    deinit { tokens.deallocate() }

    /// Feeds every sequence its prompt, the first time, or its latest token, and draws the next ones. Collective.
    ///
    /// When learned positions run out, a sequence is fed again from its last half, as there is no position to give to
    /// the next token.
    public func advance() throws {
        for index in streams.indices where stepCount > 0 {
            streams[index].position += streams[index].inputCount
            streams[index].inputCount = 1
            streams[index].carry.merge(streams[index].slots) { $1 }
            streams[index].slots.removeAll()
        }
        if let limit = model.embedding.maximumPositions {
            for index in streams.indices where streams[index].position + streams[index].inputCount > limit {
                streams[index].inputCount = max(1, limit / 2)
                streams[index].position = 0
                streams[index].carry.removeAll()
            }
        }
        _ = try interpreter.run(self)
        stepCount += 1
        isCaughtUp = false
    }

    /// The tokens that the latest step drew, one per sequence, on every rank. Collective.
    public func latestTokens() throws -> [Int32] {
        var latest = drawn.map { $0.last ?? 0 }
        try latest.withUnsafeMutableBytes { try communicator.broadcast($0, root: headRank) }
        return latest
    }

    /// Mean number of applications of the shared block that tokens went through which came one by one; nil without an exit
    /// rule or such tokens. Collective.
    public func meanIterations() throws -> Double? {
        guard exitPlan != nil else { return nil }
        let count = try communicator.sum(Double(exits.tokens))
        let sum = try communicator.sum(Double(exits.iterations))
        return count > 0 ? sum / count : nil
    }

    /// All tokens drawn so far, one list per sequence, on every rank. Collective; to be called at the end, since it
    /// completes what is under way.
    public func drawnTokens() throws -> [[Int32]] {
        try catchUp()
        var flat = drawn.flatMap { $0 }
        if flat.isEmpty { flat = Array(repeating: 0, count: streams.count * stepCount) }
        try flat.withUnsafeMutableBytes { try communicator.broadcast($0, root: headRank) }
        return streams.indices.map { Array(flat[$0 * stepCount..<($0 + 1) * stepCount]) }
    }
}

extension StreamDecoder: StageExecutor {
    public func forward(_ unit: UnitOfWork, recorded: Bool) throws {
        let index = unit.microBatch
        let pass = pass(index)
        func arrived(_ edge: Int) -> Parcel? { mailbox.removeValue(forKey: Slot(consumer: unit, edge: edge)) }
        func leave(_ parcel: Parcel, edge: Int, toStage: Int) {
            var next = unit
            next.stage = toStage
            mailbox[Slot(consumer: next, edge: edge)] = parcel
        }
        var links: [Int: Variable] = [:]
        for (number, link) in routing.edges.enumerated() where link.toStage == unit.stage {
            links[number + 1] = Variable(arrived(number + 1)!.tensor)
        }
        let exit = pass.time == 1 ? streams[index].exit : nil
        let output = try StagePass(
            model: model, routing: routing, layers: stageLayers[unit.stage], pass: pass, exit: exit
        ).run(
            arrived(0).map { Flow(Variable($0.tensor), selection: $0.selection) }, links: links,
            carry: carry(index, of: unit.stage),
            embed: {
                if stepCount > 0, !isCaughtUp { try takeToken(index) }
                return Array(streams[index].history.suffix(pass.time)).withUnsafeBufferPointer {
                    model.embedding.forward($0.baseAddress!, pass)
                }
            },
            finish: { try draw(index, from: $0.activation, pass) })
        for (layer, carry) in output.carry.sorted(by: { $0.key < $1.key }) { keep(carry, of: layer, in: index) }
        if let exit, let exitPlan, stageLayers[unit.stage].contains(exitPlan.recursion.layers.upperBound) {
            exits = (exits.tokens + 1, exits.iterations + exit.iterations)
        }
        for (edge, value) in output.links {
            leave(Parcel(value.value), edge: edge, toStage: routing.edges[edge - 1].toStage)
        }
        if let flow = output.flow { leave(Parcel(flow), edge: 0, toStage: unit.stage + 1) }
    }

    /// What tokens before have left for the layers of a stage.
    private func carry(_ stream: Int, of stage: Int) -> [Int: Carry] {
        guard let exitPlan, exitPlan.rule.slots != nil else { return streams[stream].carry }
        let found = stageLayers[stage].compactMap { layer in
            streams[stream].carry[exitPlan.keeper(layer)].map { (layer, $0) }
        }
        return Dictionary(uniqueKeysWithValues: found)
    }

    private func keep(_ carry: Carry, of layer: Int, in stream: Int) {
        if let exitPlan, exitPlan.rule.slots != nil, exitPlan.recursion.layers.contains(layer) {
            streams[stream].slots[exitPlan.keeper(layer)] = carry
        } else {
            streams[stream].carry[layer] = carry
        }
    }

    private func pass(_ stream: Int) -> Pass {
        Pass(
            tape: Tape(context, isRecording: false), batch: 1, time: streams[stream].inputCount,
            positionOffset: streams[stream].position, samples: [UInt32(stream)], isTraining: false, isGenerating: true)
    }

    /// What the layers behind the shared block make of a state, without a trace.
    private func logits(of state: Variable, stream: Int) -> Tensor {
        let pass = pass(stream)
        var flow = Flow(state)
        for index in exitPlan!.recursion.layers.upperBound..<model.layerCount - 1 {
            let layer = model.layers[index] as! any HiddenLayer
            flow = layer.forward(flow, carry: streams[stream].carry[index] ?? [], pass).0
        }
        return model.head.logits(flow.activation, pass)
    }

    /// Adds the token that the head drew in the step before.
    private func takeToken(_ index: Int) throws {
        if headRank != embeddingRank {
            let bytes = UnsafeMutableRawBufferPointer(start: tokens + index, count: 4)
            try communicator.receive(into: bytes, from: headRank, tag: communicator.largestTag - index).wait()
        }
        streams[index].history.append(tokens[index])
    }

    private func catchUp() throws {
        guard stepCount > 0, !isCaughtUp else { return }
        if communicator.rank == embeddingRank { for index in streams.indices { try takeToken(index) } }
        for index in streams.indices {
            try tokenRequests[index]?.wait()
            tokenRequests[index] = nil
        }
        isCaughtUp = true
    }

    private func draw(_ index: Int, from x: Variable, _ pass: Pass) throws {
        let width = x.value.width
        let last = context.tensor(Shape(1, width))
        last.pointer.update(from: x.value.pointer + (pass.time - 1) * width, count: width)
        let logits = model.head.logits(Variable(last), pass)
        // The buffer is free again once the embedding's rank has the token before.
        try tokenRequests[index]?.wait()
        tokenRequests[index] = nil
        tokens[index] = sample(index, UnsafeBufferPointer(start: logits.pointer, count: logits.count))
        drawn[index].append(tokens[index])
        guard headRank != embeddingRank else { return }
        let bytes = UnsafeRawBufferPointer(start: tokens + index, count: 4)
        tokenRequests[index] = try communicator.send(bytes, to: embeddingRank, tag: communicator.largestTag - index)
    }

    public func receiveBuffer(_ message: StageMessage) throws -> ReceiveBuffer {
        let tensor = context.tensor(Shape(layout(message).shape.count + exitFloats(message)), .messages)
        messages[slot(message)] = tensor
        return ReceiveBuffer(
            UnsafeMutableRawBufferPointer(start: tensor.pointer, count: tensor.count * 4),
            isUpperBound: MessageLayout.isRouted(message, model, stageLayers))
    }

    public func received(_ message: StageMessage, byteCount: Int) throws {
        let (buffer, layout) = (messages.removeValue(forKey: slot(message))!, layout(message))
        let count = exitFloats(message)
        guard count > 0 else {
            mailbox[slot(message)] = layout.parcel(buffer.reshaped(layout.shape), byteCount: byteCount, context)
            return
        }
        let activation = context.tensor(layout.shape)
        activation.copy(from: buffer.pointer, count: activation.count)
        mailbox[slot(message)] = Parcel(activation)
        streams[message.microBatch].exit!.unpack(buffer.pointer + activation.count)
    }

    public func sendBuffer(_ message: StageMessage) throws -> UnsafeRawBufferPointer {
        var tensor = mailbox.removeValue(forKey: slot(message))!.packed(context)
        let count = exitFloats(message)
        if count > 0 {
            let activation = tensor
            tensor = context.tensor(Shape(activation.count + count), .messages)
            tensor.copy(from: activation.pointer, count: activation.count)
            streams[message.microBatch].exit!.pack(into: tensor.pointer + activation.count)
        }
        messages[slot(message)] = tensor
        return UnsafeRawBufferPointer(start: tensor.pointer, count: tensor.count * 4)
    }

    public func sent(_ message: StageMessage) throws { messages.removeValue(forKey: slot(message)) }

    /// Floats behind the activation that tell how far its token has come.
    private func exitFloats(_ message: StageMessage) -> Int {
        guard let exitPlan, message.edge == 0, streams[message.microBatch].inputCount == 1,
            exitPlan.isWithin(stageLayers[message.toStage].lowerBound)
        else { return 0 }
        return exitPlan.floatCount
    }

    private func slot(_ message: StageMessage) -> Slot { Slot(consumer: message.consumer, edge: message.edge) }

    private func layout(_ message: StageMessage) -> MessageLayout {
        MessageLayout(message, model, routing, stageLayers, pass(message.microBatch))
    }

    public func recompute(_ unit: UnitOfWork) throws { onlyForward() }
    public func inputGradient(_ unit: UnitOfWork) throws { onlyForward() }
    public func weightGradient(_ unit: UnitOfWork) throws { onlyForward() }
    public func reduceTied() throws { onlyForward() }
    public func step() throws { onlyForward() }

    private func onlyForward() -> Never { fatalError("StreamDecoder: got a training action; expected forwards only") }
}
