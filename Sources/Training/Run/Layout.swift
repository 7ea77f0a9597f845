import Autograd
import Models
import Pipeline

/// One way to lay a model on the ranks of a pipeline: stages, their ranks, the order of the compute actions; and what
/// that is predicted to cost.
public struct Layout: Sendable {
    public let stageLayers: [Range<Int>]
    /// Compute actions, in a replica with most micro-batches.
    public let schedule: Schedule
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
        var schedule = try Self.schedule(parallel, rankCount: rankCount, microBatchCount: cut.microBatchCount)
        let (placement, stageCount) = (schedule.placement, schedule.shape.stageCount)
        guard stageCount <= model.layerCount else {
            throw RunError.stagesExceedLayers(stages: stageCount, layers: model.layerCount)
        }
        func estimate(_ timings: [LayerTiming]?) -> UnitEstimate {
            UnitEstimate(
                model: model, cut: cut, replicaCount: parallel.replicas, optimizerCopies: optimizerCopies,
                timings: timings, flopsPerSecond: flopsPerSecond)
        }
        let unit = estimate(timings)
        let partition =
            if case .explicit(let counts) = parallel.partition {
                try Self.explicit(counts, layerCount: model.layerCount, stageCount: stageCount)
            } else {
                try Self.byCost(
                    (parallel.partition == .measured ? unit : estimate(nil))
                        .layerCosts(isRecomputed: parallel.rematerialization != .never), schedule,
                    limit: parallel.memoryLimit, reserve: unit.temporaryBytes.max()!)
            }
        let ranges = (0..<stageCount).map { partition.layers(of: $0) }
        stageLayers = ranges
        let skips = LinkRouting(model.links, stageLayers: ranges).edges
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
        let stateBytes = layersOfRank.map { layers in layers.reduce(0) { $0 + unit.fixedBytes[$1] } }
        self.stateBytes = stateBytes
        let messages = MessageCost(latency: 2e-6, bandwidth: 10e9)
        // As if nothing of the exchange between replicas were hidden: gradients, then updated values.
        let exchanged = layersOfRank.map { layers in layers.reduce(0) { $0 + unit.exchangedBytes[$1] } }.max()!
        costs = CostModel(
            stages: ranges.map { unit.stageCost($0) }, messages: messages,
            step: Double(stateBytes.max()!) / Self.updateBytesPerSecond + 2 * Double(exchanged) / messages.bandwidth)
        simulation = try Simulator.simulate(schedule, costs, keepsTimeline: keepsTimeline)
        let usage = simulation.ranks
        predictedPeakBytes = layersOfRank.enumerated().map { rank, layers in
            Self.withSlack(stateBytes[rank] + usage[rank].peakBytes + layers.map { unit.temporaryBytes[$0] }.max()!)
        }
    }

    /// Speed at which norm and update pass over parameters, gradients and optimiser state: that of main memory.
    private static let updateBytesPerSecond = 8e9

    /// The whole step: the pipeline, then norm and update.
    var stepSeconds: Double { simulation.makespan + costs.step }

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

    /// The order of compute actions, generated or read from a file.
    static func schedule(
        _ parallel: RunConfiguration.ParallelSection, rankCount: Int, microBatchCount: Int
    ) throws -> Schedule {
        switch parallel.schedule {
        case .named(let name):
            try ScheduleCatalog.training(
                name,
                ScheduleRequest(
                    rankCount: rankCount, virtualStages: parallel.virtualStages, placement: parallel.placement,
                    microBatchCount: microBatchCount, chunkCount: parallel.chunks,
                    rematerialization: parallel.rematerialization))
        case .file(let path): try read(path, parallel, rankCount: rankCount, microBatchCount: microBatchCount)
        }
    }

    private static func read(
        _ path: String, _ parallel: RunConfiguration.ParallelSection, rankCount: Int, microBatchCount: Int
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
