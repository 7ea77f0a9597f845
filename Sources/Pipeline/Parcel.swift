import Autograd
import Models
import Tensors

/// An activation or gradient handed from stage to stage: with the tokens that its rows stand for where these are not all.
struct Parcel {
    var tensor: Tensor
    var selection: TokenSelection?

    init(_ tensor: Tensor, selection: TokenSelection? = nil) {
        self.tensor = tensor
        self.selection = selection
    }

    init(_ flow: Flow) { self.init(flow.activation.value, selection: flow.selection) }

    /// One message: the rows, then the numbers of their tokens, as bits.
    func packed(_ context: ComputeContext) -> Tensor {
        guard let selection else { return tensor }
        let result = context.tensor(Shape(tensor.count + selection.rows.count), .messages)
        result.copy(from: tensor.pointer, count: tensor.count)
        (result.pointer + tensor.count).withMemoryRebound(to: Int32.self, capacity: selection.rows.count) {
            $0.update(from: selection.rows, count: selection.rows.count)
        }
        return result
    }
}

/// The size and form of one message, known on both sides from the plan; where tokens are routed, at most.
struct MessageLayout {
    private let width: Int
    private let rows: Int
    private let batch: Int
    private let kind: StageMessage.Kind
    private let isRouted: Bool

    /// - Parameter pass: of the message's micro-batch and chunk.
    init(
        _ message: StageMessage, _ model: Model, _ routing: LinkRouting, _ stageLayers: [Range<Int>], _ pass: Pass
    ) {
        kind = message.kind
        batch = pass.batch
        isRouted = Self.isRouted(message, model, stageLayers)
        if message.edge > 0 {
            let link = model.links[routing.linkOfEdge[message.edge - 1]]
            width = link.width
            rows = link.rows(batch: pass.batch, time: pass.time, positionOffset: pass.positionOffset)
        } else {
            let layer = Self.producer(message, model, stageLayers)
            width = layer.outputWidth
            rows = pass.batch * layer.largestOutputTime(in: pass)
        }
    }

    /// The layer whose output the message holds, or the gradient of it.
    private static func producer(
        _ message: StageMessage, _ model: Model, _ stageLayers: [Range<Int>]
    ) -> any ModelLayer {
        model.layers[stageLayers[min(message.fromStage, message.toStage)].upperBound - 1]
    }

    /// Whether the message holds some of the tokens only, how many being known to the sender alone.
    static func isRouted(_ message: StageMessage, _ model: Model, _ stageLayers: [Range<Int>]) -> Bool {
        message.edge == 0 && producer(message, model, stageLayers).routesTokens
    }

    var shape: Shape { Shape(rows, isRouted && kind == .activation ? width + 1 : width) }

    /// What `byteCount` received bytes say.
    func parcel(_ buffer: Tensor, byteCount: Int, _ context: ComputeContext) -> Parcel {
        guard isRouted else { return Parcel(buffer) }
        let rows = byteCount / MemoryLayout<Float>.stride / shape.width
        let tensor = context.tensor(Shape(rows, width))
        tensor.copy(from: buffer.pointer, count: tensor.count)
        guard kind == .activation else { return Parcel(tensor) }
        let numbers = (buffer.pointer + tensor.count).withMemoryRebound(to: Int32.self, capacity: rows) {
            Array(UnsafeBufferPointer(start: $0, count: rows))
        }
        return Parcel(tensor, selection: TokenSelection(rows: numbers, batch: batch))
    }
}

private extension Shape {
    /// Extent of the last axis.
    var width: Int { self[rank - 1] }
}
