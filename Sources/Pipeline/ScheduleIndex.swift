/// Dense numbers for units and messages, for tables over a whole schedule.
///
/// A message's slot is its producer's number on the line, and lies behind all units on a skip: there one slot per skip
/// and unit of a stage stands for the activation and its gradient alike. Tables keep the two directions apart.
struct ScheduleIndex: Sendable {
    let shape: ScheduleShape
    /// Units of one stage.
    let stride: Int
    let unitCount: Int
    /// Units and messages on skips.
    let slotCount: Int
    /// Per stage, the edges that may end and begin there: always the line, then skips.
    let edgesIn: [[Int]]
    let edgesOut: [[Int]]
    private let passStride: Int

    init(_ shape: ScheduleShape) {
        self.shape = shape
        stride = shape.unitsPerStage
        passStride = shape.microBatchCount * shape.chunkCount
        unitCount = shape.unitCount
        slotCount = shape.unitCount + shape.skips.count * shape.unitsPerStage
        var edgesIn = [[Int]](repeating: [0], count: shape.stageCount)
        var edgesOut = edgesIn
        for (skip, stages) in shape.skips.enumerated() {
            edgesIn[stages.toStage].append(skip + 1)
            edgesOut[stages.fromStage].append(skip + 1)
        }
        self.edgesIn = edgesIn
        self.edgesOut = edgesOut
    }

    func unit(_ action: Action) -> Int {
        ((action.stage * shape.recursionCount + action.recursion) * shape.microBatchCount + action.microBatch)
            * shape.chunkCount + action.chunk
    }

    func stage(_ unit: Int) -> Int { unit / stride }

    /// The unit that feeds an action's unit along an edge that ends at its stage; −1 where the data do.
    func upstream(_ action: Action, _ unit: Int, edge: Int) -> Int {
        if edge > 0 { return unit - (action.stage - shape.skips[edge - 1].fromStage) * stride }
        if action.stage > 0 { return unit - stride }
        return action.recursion > 0 ? unit + (shape.stageCount - 1) * stride - passStride : -1
    }

    /// The unit that an action's unit feeds along an edge that begins at its stage; −1 where it is the loss.
    func downstream(_ action: Action, _ unit: Int, edge: Int) -> Int {
        if edge > 0 { return unit + (shape.skips[edge - 1].toStage - action.stage) * stride }
        if action.stage < shape.stageCount - 1 { return unit + stride }
        return action.recursion < shape.recursionCount - 1 ? unit - (shape.stageCount - 1) * stride + passStride : -1
    }

    /// Slot of the message that a unit sends along an edge.
    func slot(from producer: Int, edge: Int) -> Int {
        edge == 0 ? producer : unitCount + (edge - 1) * stride + producer % stride
    }

    /// Slot of the message that a SEND, RECV or WAIT action moves.
    func slot(of action: Action, _ unit: Int) -> Int {
        if action.edge > 0 { return slot(from: unit, edge: action.edge) }
        return switch action.kind {
        case .receiveActivation: upstream(action, unit, edge: 0)
        case .receiveGradient: downstream(action, unit, edge: 0)
        default: unit
        }
    }
}
