/// ZB-V (arXiv 2405.15362): the ranks are passed down and back up, so that input and loss share rank 0, the first
/// backward starts where the first forward did, and every rank holds the same. For 2 ranks, 3 micro-batches (written
/// stage:micro-batch):
///
///     rank 0  F0:0 F0:1 F0:2 F3:0 I3:0 W3:0 F3:1 I3:1 W3:1 I0:0 W0:0 F3:2 I3:2 W3:2 I0:1 W0:1 I0:2 W0:2 .
///     rank 1  .    F1:0 F2:0 F1:1 F2:1 I2:0 W2:0 F1:2 I1:0 W1:0 F2:2 I2:1 W2:1 I1:1 I2:2 I1:2 W1:1 W2:2 W1:2
///
/// Rank `r` runs `2(p−1−r)+1` forwards of its first stage ahead, then `r` pairs of forwards, then turns to the
/// backwards of its second stage until those of its first arrive; from there on forward, I and W of both stages
/// alternate. At the end weight gradients wait until no input gradient is due. With chunks, `k−1` more pairs run
/// ahead.
///
/// `min(2p + 2(k−1), 2mk)` units are alive, as much as under ZB-H1 at `k = 1`. With `F = I = W` no rank waits between
/// its first and its last action: as rank `p−1` starts after `p−1` stages and the step ends on all ranks together,
/// the bubble is `(p−1)F/(2k)` for `mk ≥ 2(p−1)+k`, half of ZB-H1's and the least possible. Shorter steps take the
/// list scheduler's order where it is shorter. Messages: twice those of one stage per rank.
enum ZeroBubbleV: ScheduleGenerator {
    static let name = "zb_v"
    static let placements = [PlacementKind.vShape]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        let written = writtenActions(shape, placement)
        let steady = 2 * (placement.rankCount - 1) + shape.chunkCount
        guard shape.unitsPerStage < steady else { return written }
        // Too short a step for the written order to pay off.
        let block = BuildingBlock(
            rankCount: placement.rankCount, chunkCount: shape.chunkCount, down: 3, up: 3, turn: 2)
        return block.shorter(written, shape, placement, capacity: steady + shape.chunkCount)
    }

    private static func writtenActions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        (0..<placement.rankCount).map { rank in
            let above = placement.rankCount - 1 - rank
            var list = VShapeWriter(shape, rank: rank)
            for _ in 0..<2 * above + 1 { list.forward(.down) }
            for _ in 0..<rank + shape.chunkCount - 1 {
                list.forward(.up)
                list.forward(.down)
            }
            for _ in 0...above {
                list.forward(.up)
                list.backward(.up)
            }
            while list.remainingForwards(.up) > 0 {
                list.forward(.down)
                list.backward(.down)
                list.forward(.up)
                list.backward(.up)
            }
            while list.remainingBackwards(.up) > 0 {
                list.inputGradient(.down)
                list.inputGradient(.up)
            }
            while list.remainingBackwards(.down) > 0 { list.backward(.down) }
            list.finish()
            return list.actions
        }
    }
}

/// DualPipeV (the V-shaped half of DualPipe, deepseek-ai/DualPipe): forwards of one stage are paired with backwards of
/// the other, a pair the original runs at once to hide the exchange of experts; here they run one after the other.
/// For 2 ranks, 4 micro-batches (written stage:micro-batch):
///
///     rank 0  F0:0 F0:1 F0:2 F3:0 I3:0 W3:0 F3:1 F0:3 I3:1 W3:1 F3:2 I0:0 W0:0 I3:2 W3:2 F3:3 I0:1 W0:1 I3:3 …
///     rank 1  .    F1:0 F2:0 F1:1 F2:1 F1:2 I2:0 W2:0 F2:2 I1:0 W1:0 F1:3 I2:1 W2:1 F2:3 I1:1 W1:1 I2:2 W2:2 …
///
/// Weight gradients follow their input gradients at once, except in the second half of the drain, so the peak is
/// `min(2p + 1 + 2(k−1), 2mk)` units. The published bubble `(p−1)(F&B + B − 3W)` counts idle time at both ends of a
/// rank; the step's bubble with `F = I = W` is that of ZB-V for even `p`, a stage's forward more for odd `p ≥ 3`,
/// from `mk ≥ 2(p−1)+k` on.
enum DualPipeV: ScheduleGenerator {
    static let name = "dualpipe_v"
    static let placements = [PlacementKind.vShape]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        (0..<placement.rankCount).map { rank in
            let above = placement.rankCount - 1 - rank
            var list = VShapeWriter(shape, rank: rank)
            for _ in 0..<2 * above { list.forward(.down) }
            for _ in 0..<rank + shape.chunkCount {
                list.forward(.down)
                list.forward(.up)
            }
            for _ in 0..<above {
                list.backward(.up)
                list.forward(.up)
            }
            while list.remainingForwards(.down) > 0 {
                list.forward(.down)
                list.backward(.up)
                list.forward(.up)
                list.backward(.down)
            }
            for _ in 0..<above {
                list.backward(.up)
                list.forward(.up)
                list.backward(.down)
            }
            while list.remainingBackwards(.up) > (rank + 1) / 2 {
                list.backward(.up)
                list.backward(.down)
            }
            while list.remainingBackwards(.up) > 0 {
                list.inputGradient(.up)
                list.inputGradient(.down)
            }
            while list.remainingBackwards(.down) > 0 {
                list.weightGradient()
                list.inputGradient(.down)
            }
            list.finish()
            return list.actions
        }
    }
}

/// Writes the list of one rank of a V: two stages, each with its units in order, and weight gradients that wait in the
/// order of their input gradients. What has run out is skipped, so that one text serves steps of any length.
private struct VShapeWriter {
    enum Half: Int {
        /// The rank's first stage.
        case down
        /// Its second.
        case up
    }

    private(set) var actions: [Action] = []
    private let shape: ScheduleShape
    /// By half, as all below.
    private let stages: [Int]
    private var forwards = [0, 0]
    private var backwards = [0, 0]
    /// Units in the order of their input gradients; those from `weightGradients` on lack the weight gradient.
    private var differentiated: [UnitOfWork] = []
    private var weightGradients = 0

    init(_ shape: ScheduleShape, rank: Int) {
        self.shape = shape
        stages = [rank, shape.stageCount - 1 - rank]
        actions.reserveCapacity(6 * shape.unitsPerStage)
        differentiated.reserveCapacity(2 * shape.unitsPerStage)
    }

    func remainingForwards(_ half: Half) -> Int { shape.unitsPerStage - forwards[half.rawValue] }
    func remainingBackwards(_ half: Half) -> Int { shape.unitsPerStage - backwards[half.rawValue] }

    mutating func forward(_ half: Half) {
        guard remainingForwards(half) > 0 else { return }
        let unit = shape.forwardUnit(stage: stages[half.rawValue], forwards[half.rawValue])
        actions.append(Action(.forward, unit))
        forwards[half.rawValue] += 1
    }

    mutating func inputGradient(_ half: Half) {
        guard remainingBackwards(half) > 0 else { return }
        let unit = shape.backwardUnit(stage: stages[half.rawValue], backwards[half.rawValue])
        actions.append(Action(.inputGradient, unit))
        differentiated.append(unit)
        backwards[half.rawValue] += 1
    }

    mutating func weightGradient() {
        guard weightGradients < differentiated.count else { return }
        actions.append(Action(.weightGradient, differentiated[weightGradients]))
        weightGradients += 1
    }

    /// Two actions rather than one, so that the gradient can leave in between.
    mutating func backward(_ half: Half) {
        guard remainingBackwards(half) > 0 else { return }
        inputGradient(half)
        weightGradient()
    }

    /// The weight gradients still waiting.
    mutating func finish() {
        while weightGradients < differentiated.count { weightGradient() }
    }
}
