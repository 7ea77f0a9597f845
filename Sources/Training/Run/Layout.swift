import Autograd
import Models
import Pipeline

/// One way to lay a model on the ranks of a pipeline: stages, their ranks, the order of the compute actions; and what
/// that is predicted to cost.
public struct Layout: Sendable {
    public let stageLayers: [Range<Int>]
    /// Compute actions, in a replica with most micro-batches.
    public let schedule: Schedule
    /// How a shared block lies on rings of ranks; nil for other placements.
    let ring: RingPartition?
    /// What the stages cost, measured or estimated.
    public let costs: CostModel
    /// The step that those costs predict, up to the closing actions.
    public let simulation: Simulation
    /// Bytes of parameters, gradients, exchange with replicas and optimiser state of each rank.
    public let stateBytes: [Int]
    /// Bytes a rank needs at most: state, activations in flight, and the largest layer's temporaries.
    public let predictedPeakBytes: [Int]

    public var placement: Placement { schedule.placement }

    /// - Parameters:
    ///   - rankCount: ranks of one pipeline.
    ///   - optimizerCopies: state tensors per parameter.
    ///   - timings: measured seconds of one unit in each layer; nil estimates them from FLOPs. The cut follows them
    ///     only where `parallel.partition` says so.
    ///   - flopsPerSecond: speed used to turn FLOPs into seconds.
    /// - Throws: `RunError`, `PartitionError` or `ScheduleError`; the same on every rank.
    init(
        model: Model, run: RunConfiguration, rankCount: Int, optimizerCopies: Int, timings: [LayerTiming]?,
        flopsPerSecond: Double = 100e9, keepsTimeline: Bool
    ) throws {
        let parallel = run.parallel
        try Self.check(model, run)
        let cut = BatchCut(run, replica: parallel.replicas - 1)
        func estimate(_ timings: [LayerTiming]?) -> UnitEstimate {
            UnitEstimate(
                model: model, cut: cut, replicaCount: parallel.replicas, optimizerCopies: optimizerCopies,
                timings: timings, flopsPerSecond: flopsPerSecond)
        }
        let unit = estimate(timings)
        let cutBy = parallel.partition == .measured ? unit : estimate(nil)
        ring = try parallel.placement == .ring ? Self.ring(model, parallel, rankCount: rankCount, cutBy) : nil
        var schedule = try Self.schedule(
            parallel, rankCount: rankCount, microBatchCount: cut.microBatchCount, ring: ring)
        let (placement, stageCount) = (schedule.placement, schedule.shape.stageCount)
        guard stageCount <= model.layerCount else {
            throw RunError.stagesExceedLayers(stages: stageCount, layers: model.layerCount)
        }
        let partition =
            if let ring {
                ring.partition
            } else if case .explicit(let counts) = parallel.partition {
                try Self.explicit(counts, layerCount: model.layerCount, stageCount: stageCount)
            } else {
                try Self.byCost(
                    cutBy.layerCosts(isRecomputed: parallel.rematerialization != .never), schedule,
                    limit: parallel.memoryLimit, reserve: unit.temporaryBytes.max()!)
            }
        let ranges = (0..<stageCount).map { partition.layers(of: $0) }
        stageLayers = ranges
        let forwardOnly = Set(ranges.indices.filter { ranges[$0].allSatisfy { model.layers[$0].isForwardOnly } })
        if !forwardOnly.isEmpty {
            schedule = try Self.schedule(
                parallel, rankCount: rankCount, microBatchCount: cut.microBatchCount, ring: ring,
                forwardOnly: forwardOnly)
        }
        try Self.check(schedule, parallel, forwardOnly)
        let routing = LinkRouting(model.links, stageLayers: ranges)
        let skips = routing.edges
        if case .file(let path) = parallel.schedule, !schedule.shape.skips.isEmpty, schedule.shape.skips != skips {
            throw RunError.scheduleFile(
                path: path,
                message: "has skips that differ from the model's, which are "
                    + (skips.isEmpty ? "none" : skips.map { "\($0.fromStage)-\($0.toStage)" }.joined(separator: " "))
                    + " under this cut; correct them, or leave the line out")
        }
        schedule.shape.skips = skips
        self.schedule = schedule

        let layersOfRank = (0..<placement.rankCount).map { rank in placement.stages(of: rank).flatMap { ranges[$0] } }
        let stateBytes = layersOfRank.map { unit.stateBytes($0) }
        self.stateBytes = stateBytes
        let messages = MessageCost(latency: 2e-6, bandwidth: 10e9)
        // As if nothing of the exchange between replicas were hidden: gradients, then updated values.
        let exchanged = layersOfRank.map { layers in layers.reduce(0) { $0 + unit.exchangedBytes[$1] } }.max()!
        costs = CostModel(
            stages: ranges.map { unit.stageCost($0) }, messages: messages,
            skipBytes: routing.linkOfEdge.map { unit.linkBytes[$0] },
            reduceTied: Double(unit.tiedBytes(layersOfRank).max()!) / messages.bandwidth,
            step: Double(stateBytes.max()!) / Self.updateBytesPerSecond + 2 * Double(exchanged) / messages.bandwidth)
        simulation = try Simulator.simulate(schedule, costs, keepsTimeline: keepsTimeline)
        let usage = simulation.ranks
        predictedPeakBytes = layersOfRank.enumerated().map { rank, layers in
            Self.withSlack(
                stateBytes[rank] + usage[rank].peakBytes + unit.linkMessageBytes(layers)
                    + (rankCount == 1
                        ? 0
                        : unit.lineMessageBytes(
                            placement.stages(of: rank).map { ranges[$0] },
                            forwardOnly: { $0.allSatisfy { model.layers[$0].isForwardOnly } },
                            unitCount: schedule.shape.unitsPerStage))
                    + layers.map { unit.temporaryBytes[$0] }.max()!)
        }
        if ring != nil, let limit = parallel.memoryLimit, let peak = predictedPeakBytes.max(), peak > limit {
            throw RunError.memory(limit: limit, need: peak, cut: partition.layerCounts)
        }
    }

    /// Speed at which norm and update pass over parameters, gradients and optimiser state: that of main memory.
    private static let updateBytesPerSecond = 8e9

    /// The whole step: the pipeline, then sums over use-sites, norm and update.
    var stepSeconds: Double { simulation.makespan + costs.reduceTied + costs.step }

    /// What the configuration asks for that this model cannot do.
    private static func check(_ model: Model, _ run: RunConfiguration) throws {
        let (time, parallel) = (run.train.sequenceLength, run.parallel)
        if parallel.chunks > 1, let obstacle = model.chunkingObstacle {
            throw RunError.unchunkable(layer: obstacle.layer, reason: obstacle.reason, chunks: parallel.chunks)
        }
        if let maximum = model.embedding.maximumPositions, time > maximum {
            throw RunError.sequenceTooLong(time: time, maximum: maximum)
        }
        guard parallel.chunks <= time else {
            throw RunError.chunksExceedTime(chunks: parallel.chunks, time: time)
        }
        for index in parallel.rematerializedLayers
        where !(1..<model.layerCount).contains(index) || !(model.layers[index] is Block) {
            throw RunError.usage(
                "parallel.rematerialize names layer \(index), which is no block; the layers are 1 to \(model.hidden.count)"
            )
        }
    }

    /// A schedule that is written down may give stages without gradients a backward, but must not leave out another's.
    private static func check(
        _ schedule: Schedule, _ parallel: RunConfiguration.ParallelSection, _ forwardOnly: Set<Int>
    ) throws {
        guard case .file(let path) = parallel.schedule else { return }
        let wrong = schedule.shape.forwardOnly.subtracting(forwardOnly)
        guard wrong.isEmpty else {
            throw RunError.scheduleFile(
                path: path,
                message: "runs stages \(wrong.sorted()) forward only, whose layers have gradients under this cut; "
                    + "add their backwards, and correct forward_only")
        }
    }

    /// The shared block of a model on as many rings as asked for, or as few as give every rank a slice of it.
    private static func ring(
        _ model: Model, _ parallel: RunConfiguration.ParallelSection, rankCount: Int, _ unit: UnitEstimate
    ) throws -> RingPartition {
        guard model.canFormRings, let recursion = model.recursions.first else {
            let count = model.recursions.count
            throw RunError.usage(
                "parallel.placement is ring, which needs a model with one shared block (a group of layers with a "
                    + "'recursion' section, sharing: cycle); this one has "
                    + (count == 1 ? "sharing: sequence" : count == 0 ? "none" : "\(count)") + "; leave placement out")
        }
        guard parallel.virtualStages == nil, parallel.isCutFree else {
            throw RunError.usage(
                "parallel.placement ring fixes stages by the shared block; remove virtual_stages and the list in partition"
            )
        }
        let possible = (1...rankCount).filter {
            rankCount.isMultiple(of: $0) && $0 <= recursion.count && rankCount / $0 <= recursion.blockLength
        }
        // Rings that share the recursions out evenly, where that goes.
        let usual = possible.first { recursion.count.isMultiple(of: $0) } ?? possible.first
        guard let rings = parallel.rings ?? usual, possible.contains(rings) else {
            throw RunError.usage(
                "\(count(rankCount, "rank")) cannot form \(parallel.rings.map { count($0, "ring") } ?? "rings") for a "
                    + "shared block of \(count(recursion.blockLength, "layer")) in "
                    + "\(count(recursion.count, "recursion")): each ring needs equally many ranks, "
                    + "at most one per layer, and a recursion of its own; "
                    + (possible.isEmpty
                        ? "start \(count(largestRing(recursion, below: rankCount), "rank")), or use another placement"
                        : "set parallel.rings to \(possible.map(String.init).joined(separator: " or "))"))
        }
        // What waits on the home rank for the end of the last recursion stays there.
        let waits = model.links.contains {
            ![.sum, .exit].contains($0.port) && recursion.layers.contains($0.from)
                && $0.to >= recursion.layers.upperBound
        }
        return try RingPartition(
            times: unit.timings.map(\.total), block: recursion.layers, lapCount: recursion.count, rankCount: rankCount,
            ringCount: rings, endsAtHome: waits ? true : nil)
    }

    private static func count(_ count: Int, _ noun: String) -> String { "\(count) \(noun)\(count == 1 ? "" : "s")" }

    /// The most ranks, fewer than asked for, that a recursion can be laid on in rings.
    private static func largestRing(_ recursion: Recursion, below rankCount: Int) -> Int {
        (1..<rankCount).last { ranks in
            (1...recursion.count).contains { ranks.isMultiple(of: $0) && ranks / $0 <= recursion.blockLength }
        } ?? 1
    }

    /// The order of compute actions, generated or read from a file.
    static func schedule(
        _ parallel: RunConfiguration.ParallelSection, rankCount: Int, microBatchCount: Int, ring: RingPartition?,
        forwardOnly: Set<Int> = []
    ) throws -> Schedule {
        switch parallel.schedule {
        case .named(let name):
            try ScheduleCatalog.training(
                name,
                ScheduleRequest(
                    rankCount: rankCount, virtualStages: parallel.virtualStages, placement: parallel.placement,
                    stageCount: ring?.placement.stageCount, ringCount: ring?.ringCount ?? 1,
                    microBatchCount: microBatchCount, chunkCount: parallel.chunks,
                    rematerialization: parallel.rematerialization, forwardOnly: forwardOnly))
        case .file(let path):
            try read(path, parallel, rankCount: rankCount, microBatchCount: microBatchCount, ring: ring)
        }
    }

    private static func read(
        _ path: String, _ parallel: RunConfiguration.ParallelSection, rankCount: Int, microBatchCount: Int,
        ring: RingPartition?
    ) throws -> Schedule {
        guard FileSystem.exists(path) else {
            throw RunError.scheduleFile(
                path: path, message: "does not exist; parallel.schedule starts at the configuration's folder")
        }
        let text = try FileSystem.readText(path)
        let file = try ScheduleFile(path: path, text: text)
        try file.verify()
        let schedule = file.schedule
        let shape = schedule.shape
        let wanted = [
            (
                "ranks", schedule.placement.rankCount, rankCount,
                "start \(schedule.placement.rankCount * parallel.replicas) ranks"
            ),
            (
                "micro-batches", shape.microBatchCount, microBatchCount,
                "set parallel.micro_batches: \(shape.microBatchCount * parallel.replicas)"
            ),
            ("chunks", shape.chunkCount, parallel.chunks, "set parallel.chunks: \(shape.chunkCount)"),
        ]
        for (what, has, needs, remedy) in wanted where has != needs {
            throw RunError.scheduleFile(
                path: path,
                message: "is written for \(has) \(what), the run has \(needs)"
                    + (parallel.replicas > 1 ? " in one replica" : "") + "; \(remedy), or use another file")
        }
        if let ring, schedule.placement != ring.placement {
            throw RunError.scheduleFile(
                path: path,
                message:
                    "has its stages on ranks \(schedule.placement.ranks); the ring has them on \(ring.placement.ranks)")
        }
        if schedule.isLowered || shape.purpose != .training {
            throw RunError.scheduleFile(
                path: path,
                message: "must be a training schedule of compute actions (F, I, W, B, R); communication is added here")
        }
        if parallel.rematerialization != .never {
            throw RunError.scheduleFile(
                path: path, message: "says itself what is recomputed (R actions); remove parallel.rematerialize")
        }
        return schedule
    }

    /// Buffers are rounded up to size classes, by a quarter at most.
    private static func withSlack(_ bytes: Int) -> Int { bytes / 4 * 5 }

    /// The fastest cut whose predicted peaks stay under the limit, as far as the largest temporaries of any layer
    /// tell. A rank that holds several stages gives each an equal share of its memory.
    private static func byCost(
        _ layers: [LayerCost], _ schedule: Schedule, limit: Int?, reserve: Int
    ) throws -> Partition {
        let placement = schedule.placement
        let stagesPerRank = (placement.stageCount + placement.rankCount - 1) / placement.rankCount
        let peaks = try schedule.peakUnits ?? peakUnits(schedule)
        let allowed = limit.map { max(0, $0 / 5 * 4 - reserve) / stagesPerRank }
        let result = Result { () throws(PartitionError) -> Partition in
            try Partition(
                layers: layers, stageCount: placement.stageCount,
                liveUnits: placement.ranks.map { (peaks[$0] + stagesPerRank - 1) / stagesPerRank },
                memoryLimit: allowed)
        }
        if case .failure(.outOfMemory(_, let need, let cut)) = result {
            throw RunError.memory(limit: limit!, need: withSlack(need * stagesPerRank + reserve), cut: cut)
        }
        return try result.get()
    }

    /// What a schedule that declares no peak holds alive at once.
    private static func peakUnits(_ schedule: Schedule) throws -> [Int] {
        try Simulator.simulate(schedule, .uniform(stageCount: schedule.shape.stageCount)).ranks.map(\.peakUnits)
    }

    private static func explicit(_ counts: [Int], layerCount: Int, stageCount: Int) throws -> Partition {
        guard counts.count == stageCount else {
            throw RunError.rankCount(
                stages: counts.count, ranks: stageCount,
                remedy: "parallel.partition needs one number of layers per stage")
        }
        return try Partition(layerCounts: counts, layerCount: layerCount)
    }
}
