/// The times, in slots of one action, at which the stages of a V work on the first unit; unit `i` follows `6i` slots
/// later, since a rank has six actions per unit. Offsets from rank to rank decide how long a unit stays alive, and
/// so the memory; the step's order follows by repetition (arXiv 2405.15362, section 3).
struct BuildingBlock {
    static let period = 6

    /// Per stage.
    let forward: [Int]
    let inputGradient: [Int]

    /// - Parameters:
    ///   - down: slots from a forward or input gradient on one rank to the same on the next, on the way down.
    ///   - up: the same on the way up.
    ///   - turn: slots between the last stage's forward and its input gradient.
    init(rankCount: Int, chunkCount: Int, down: Int, up: Int, turn: Int) {
        let stageCount = 2 * rankCount
        var forward = [0]
        for stage in 1..<stageCount {
            forward.append(forward[stage - 1] + (stage < rankCount ? down : stage == rankCount ? 1 : up))
        }
        // A backward starts with the last chunk.
        var inputGradient = Array(repeating: 0, count: stageCount)
        inputGradient[stageCount - 1] = forward[stageCount - 1] + 1 + turn + (chunkCount - 1) * Self.period
        for stage in (0..<stageCount - 1).reversed() {
            let step = stage >= rankCount ? down : stage == rankCount - 1 ? 1 : up
            inputGradient[stage] = inputGradient[stage + 1] + step
        }
        self.forward = forward
        self.inputGradient = inputGradient
    }

    /// All ranks' lists: the block repeated, or, where that takes less time, a list scheduler that goes by the block's
    /// times but does not wait for them. The first keeps its pace however long the step; the second shortens the
    /// ends, and whole steps when memory is not scarce.
    /// - Parameter capacity: units that the repeated block keeps alive on a rank at most.
    func actions(_ shape: ScheduleShape, _ placement: Placement, capacity: Int) -> [[Action]] {
        let repeated = (0..<placement.rankCount).map { list(rank: $0, shape) }
        return shorter(repeated, shape, placement, capacity: capacity)
    }

    /// The lists given, or the list scheduler's if they take fewer slots.
    func shorter(
        _ ranks: [[Action]], _ shape: ScheduleShape, _ placement: Placement, capacity: Int
    ) -> [[Action]] {
        // Units alive in the repeated block, from forward to weight gradient.
        var promised = zip(forward, inputGradient).map { forward, inputGradient in
            max(shape.chunkCount, (inputGradient + 2 - forward + Self.period - 1) / Self.period)
        }
        for rank in 0..<placement.rankCount {
            let above = shape.stageCount - 1 - rank
            promised[above] = max(shape.chunkCount, min(promised[above], capacity - promised[rank]))
        }
        let scheduler = ListScheduler(
            shape: shape, placement: placement, forwardDue: forward, inputGradientDue: inputGradient,
            period: Self.period, capacity: capacity, promised: promised)
        let scheduled = scheduler.run()
        return scheduled.slots < slots(ranks, shape, placement) ? scheduled.ranks : ranks
    }

    /// One rank's list: the block's actions, repeated.
    private func list(rank: Int, _ shape: ScheduleShape) -> [Action] {
        let stages = [rank, shape.stageCount - 1 - rank]
        var slots: [(time: Int, kind: Action.Kind, stage: Int)] = []
        for stage in stages {
            slots.append((forward[stage], .forward, stage))
            slots.append((inputGradient[stage], .inputGradient, stage))
        }
        // Weight gradients take the slots left over, the earlier input gradient first.
        var taken = Set(slots.map { $0.time % Self.period })
        for stage in stages.sorted(by: { inputGradient[$0] < inputGradient[$1] }) {
            var time = inputGradient[stage] + 1
            while taken.contains(time % Self.period), taken.count < Self.period { time += 1 }
            taken.insert(time % Self.period)
            slots.append((time, .weightGradient, stage))
        }
        slots.sort {
            ($0.time % Self.period, $0.kind.rawValue, $0.stage) < ($1.time % Self.period, $1.kind.rawValue, $1.stage)
        }
        let units = shape.unitsPerStage
        var actions: [Action] = []
        actions.reserveCapacity(Self.period * units)
        for round in 0..<units + slots.map({ $0.time / Self.period }).max()! {
            for slot in slots {
                let index = round - slot.time / Self.period
                guard (0..<units).contains(index) else { continue }
                let unit =
                    slot.kind == .forward
                    ? shape.forwardUnit(stage: slot.stage, index) : shape.backwardUnit(stage: slot.stage, index)
                actions.append(Action(slot.kind, unit))
            }
        }
        return actions
    }
}

/// V-Half (arXiv 2405.15362): half the memory of ZB-V for half the bubble of 1F1B. For 2 ranks, 3 micro-batches
/// (written stage:micro-batch):
///
///     rank 0  F0:0 F0:1 F0:2 F3:0 I3:0 W3:0 F3:1 I0:0 I3:1 W0:0 W3:1 I0:1 W0:1 F3:2 I3:2 W3:2 .    I0:2 W0:2
///     rank 1  .    F1:0 F2:0 F1:1 F2:1 I2:0 I1:0 W2:0 F1:2 I2:1 I1:1 W1:0 F2:2 W2:1 W1:1 I2:2 I1:2 W2:2 W1:2
///
/// A way down takes two slots per rank, a way up one, so that a unit of a rank's two stages together is alive for
/// `6(p−1)` slots, `p−1` periods: at most `2⌊(p+2)/2⌋ + 2(k−1)` units. With `F = I = W` the bubble is at most
/// `3(p−1)` of the `6(p−1)` slots of 1F1B (half, `(p−1)(F+B)/(2k)`) for `k = 1`, three slots more with chunks, from
/// `mk ≥ 2(p−1)+k` on.
enum VHalf: ScheduleGenerator {
    static let name = "v_half"
    static let placements = [PlacementKind.vShape]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        let block = BuildingBlock(
            rankCount: placement.rankCount, chunkCount: shape.chunkCount, down: 2, up: 1, turn: 0)
        return block.actions(
            shape, placement, capacity: 2 * ((placement.rankCount + 2) / 2) + 2 * (shape.chunkCount - 1))
    }
}

/// V-Min (arXiv 2405.15362): a third of the memory of ZB-V, the least a V can do with, for two thirds of the bubble of
/// 1F1B. For 4 ranks, 2 micro-batches (written stage:micro-batch):
///
///     rank 0  F0:0 F0:1 .    .    .    .    .    F7:0 I7:0 F7:1 I7:1 W7:0 W7:1 .    .    I0:0 W0:0 I0:1 W0:1
///     rank 1  .    F1:0 F1:1 .    .    .    F6:0 .    F6:1 I6:0 W6:0 I6:1 W6:1 .    I1:0 W1:0 I1:1 W1:1 .
///     rank 2  .    .    F2:0 F2:1 .    F5:0 .    F5:1 .    .    I5:0 W5:0 I5:1 I2:0 W2:0 I2:1 W5:1 W2:1 .
///     rank 3  .    .    .    F3:0 F4:0 F3:1 F4:1 .    .    .    .    I4:0 I3:0 I4:1 I3:1 W4:0 W3:0 W4:1 W3:1
///
/// Every way takes one slot per rank, so that a unit of a rank's two stages together is alive for `4(p−1)` slots: at
/// most `2⌊(p+4)/3⌋ + 2(k−1)` units. With `F = I = W` the bubble is at most `4(p−1) + 6(k−1) + 1` slots of 1F1B's
/// `6(p−1)`, from `mk ≥ 2(p−1)+k` on: memory is too scarce to hide that a backward begins with the last chunk.
enum VMin: ScheduleGenerator {
    static let name = "v_min"
    static let placements = [PlacementKind.vShape]

    static func actions(_ shape: ScheduleShape, _ placement: Placement) -> [[Action]] {
        // With 3 | p, forward and backward of a rank would fall on the same slot.
        let block = BuildingBlock(
            rankCount: placement.rankCount, chunkCount: shape.chunkCount, down: 1, up: 1,
            turn: placement.rankCount % 3 == 0 ? 2 : 0)
        return block.actions(
            shape, placement, capacity: 2 * ((placement.rankCount + 4) / 3) + 2 * (shape.chunkCount - 1))
    }
}
