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
    /// By stage.
    let hasBackward: [Bool]
    /// Per stage, the skips that end and begin there; empty lists when there are none at all.
    private let skipsIn: [[Int]]
    private let skipsOut: [[Int]]

    init(_ shape: ScheduleShape) {
        self.shape = shape
        stride = shape.unitsPerStage
        unitCount = shape.unitCount
        slotCount = shape.unitCount + shape.skips.count * shape.unitsPerStage
        hasBackward = (0..<shape.stageCount).map(shape.hasBackward)
        var skipsIn = [[Int]](repeating: [], count: shape.skips.isEmpty ? 0 : shape.stageCount)
        var skipsOut = skipsIn
        for (skip, stages) in shape.skips.enumerated() {
            skipsIn[stages.toStage].append(skip + 1)
            skipsOut[stages.fromStage].append(skip + 1)
        }
        self.skipsIn = skipsIn
        self.skipsOut = skipsOut
    }

    func unit(_ action: Action) -> Int {
        (action.stage * shape.microBatchCount + action.microBatch) * shape.chunkCount + action.chunk
    }

    func stage(_ unit: Int) -> Int { unit / stride }

    /// The unit that feeds an action's unit along an edge that ends at its stage; −1 where the data do.
    func upstream(_ action: Action, _ unit: Int, edge: Int) -> Int {
        if edge > 0 { return unit - (action.stage - shape.skips[edge - 1].fromStage) * stride }
        return action.stage > 0 ? unit - stride : -1
    }

    /// The unit that an action's unit feeds along an edge that begins at its stage; −1 where it is the loss.
    func downstream(_ action: Action, _ unit: Int, edge: Int) -> Int {
        if edge > 0 { return unit + (shape.skips[edge - 1].toStage - action.stage) * stride }
        return action.stage < shape.stageCount - 1 ? unit + stride : -1
    }

    /// Calls `body` with each unit that feeds an action's unit, and the edge: the line first, then skips.
    @inline(__always)
    func forEachSource(_ action: Action, _ unit: Int, _ body: (_ source: Int, _ edge: Int) -> Void) {
        let source = upstream(action, unit, edge: 0)
        if source >= 0 { body(source, 0) }
        if skipsIn.isEmpty { return }
        for edge in skipsIn[action.stage] { body(upstream(action, unit, edge: edge), edge) }
    }

    /// Calls `body` with each unit that an action's unit feeds, and the edge: the line first, then skips.
    @inline(__always)
    func forEachTarget(_ action: Action, _ unit: Int, _ body: (_ target: Int, _ edge: Int) -> Void) {
        let target = downstream(action, unit, edge: 0)
        if target >= 0 { body(target, 0) }
        if skipsOut.isEmpty { return }
        for edge in skipsOut[action.stage] { body(downstream(action, unit, edge: edge), edge) }
    }

    /// Calls `body` with each unit that a backward's unit has a gradient from, and the edge: the line first, then skips.
    @inline(__always)
    func forEachGradientSource(_ action: Action, _ unit: Int, _ body: (_ source: Int, _ edge: Int) -> Void) {
        forEachTarget(action, unit) { source, edge in if hasBackward[stage(source)] { body(source, edge) } }
    }

    /// Calls `body` with each unit that a backward's unit has a gradient for, and the edge: the line first, then skips.
    @inline(__always)
    func forEachGradientTarget(_ action: Action, _ unit: Int, _ body: (_ target: Int, _ edge: Int) -> Void) {
        forEachSource(action, unit) { target, edge in if hasBackward[stage(target)] { body(target, edge) } }
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
