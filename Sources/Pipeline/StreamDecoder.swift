import Autograd
import Communication
import Models
import Tensors

/// Runs one sequence through the stages token by token: each rank keeps the state of its own layers,
/// and one activation goes down the line. Works the same on one rank.
///
/// Recurrent layers keep a constant amount of state; attention keeps its keys and values.
public final class StreamDecoder {
    private let model: Model
    private let layers: Range<Int>
    private let communicator: any Communicator
    private let stageCount: Int
    private let context: ComputeContext
    private var carry: [Int: Carry] = [:]
    /// Tokens consumed so far, as positions are counted.
    public private(set) var position = 0
    private let maximumPositions: Int?
    private var history: [Int32] = []

    /// - Parameter layers: those of this rank; stage `s` runs on rank `s`.
    public init(model: Model, layers: Range<Int>, communicator: any Communicator, context: ComputeContext) {
        self.model = model
        self.layers = layers
        self.communicator = communicator
        self.context = context
        stageCount = communicator.size
        maximumPositions = model.embedding.maximumPositions
    }

    /// Feeds `tokens` and returns the logits `[V]` after the last of them, on the last rank only.
    ///
    /// Collective: every rank passes the same tokens. When learned positions run out, the sequence is
    /// fed again from its last half, as there is no position to give to the next token.
    public func advance(_ tokens: [Int32]) throws -> Tensor? {
        history += tokens
        var tokens = tokens
        if let maximumPositions, position + tokens.count > maximumPositions {
            history = Array(history.suffix(max(1, maximumPositions / 2)))
            tokens = history
            carry.removeAll()
            position = 0
        }
        defer { position += tokens.count }
        return try run(tokens)
    }

    private func run(_ tokens: [Int32]) throws -> Tensor? {
        let rank = communicator.rank
        let pass = Pass(
            tape: Tape(context, isRecording: false), batch: 1, time: tokens.count, positionOffset: position,
            samples: [0], isTraining: false)
        var x: Variable?
        if rank > 0 {
            let arriving = context.tensor(
                Shape(tokens.count, model.outputWidth(ofLayer: layers.lowerBound - 1)), .messages)
            let bytes = UnsafeMutableRawBufferPointer(start: arriving.pointer, count: arriving.count * 4)
            try communicator.receive(into: bytes, from: rank - 1, tag: 0).wait()
            x = Variable(arriving)
        }
        var logits: Tensor?
        for index in layers {
            if index == 0 {
                x = tokens.withUnsafeBufferPointer { model.embedding.forward($0.baseAddress!, pass) }
            } else if index < model.layerCount - 1 {
                let (y, carryOut) = model.blocks[index - 1].forward(x!, carry: carry[index] ?? [], pass)
                carry[index] = carryOut
                x = y
            } else {
                let width = x!.value.width
                let last = context.tensor(Shape(1, width))
                last.pointer.update(from: x!.value.pointer + (tokens.count - 1) * width, count: width)
                logits = model.head.logits(Variable(last), pass)
            }
        }
        if rank < stageCount - 1 {
            let bytes = UnsafeRawBufferPointer(start: x!.value.pointer, count: x!.value.count * 4)
            try communicator.send(bytes, to: rank + 1, tag: 0).wait()
        }
        return logits
    }
}
