import Autograd
import Communication
import Models
import Pipeline
import Tensors

/// How a run is laid out: which layers form which stage, where each stage lies, and what every rank does in a step.
/// A pure function of configuration and number of ranks; computed alike on every rank.
///
/// Ranks are those of one pipeline. Replicas differ in their share of the micro-batches only; the cut and all
/// predictions are those of a replica with most, so that they are the same for all.
public struct RunPlan: Sendable {
    public let stageLayers: [Range<Int>]
    public let cut: BatchCut
    /// The order of the compute actions in a replica with most micro-batches.
    public let schedule: Schedule
    /// What this replica does; lowered and verified.
    public let training: Schedule
    public let evaluation: Schedule
    /// What the stages cost, measured or estimated.
    public let costs: CostModel
    /// The step that those costs predict.
    public let simulation: Simulation
    /// Bytes of parameters, gradients, exchange with replicas and optimiser state of each rank.
    public let stateBytes: [Int]
    /// Bytes a rank needs at most: state, activations in flight, and the largest layer's temporaries.
    public let predictedPeakBytes: [Int]

    public var placement: Placement { schedule.placement }
    public var stageCount: Int { stageLayers.count }
    public var rankCount: Int { placement.rankCount }
    /// The rank that runs the head.
    public var headRank: Int { placement.ranks[stageCount - 1] }

    /// Layers of one rank, ascending.
    public func layers(ofRank rank: Int) -> [Int] { placement.stages(of: rank).flatMap { stageLayers[$0] } }

    /// - Parameters:
    ///   - rankCount: ranks of one pipeline.
    ///   - replica: which of `parallel.replicas` the plan is for.
    ///   - optimizerCopies: state tensors per parameter.
    ///   - timings: measured seconds of one unit in each layer; nil estimates them from FLOPs.
    ///   - flopsPerSecond: speed used to turn FLOPs into seconds.
    /// - Throws: `RunError`, `PartitionError` or `ScheduleError`; the same on every rank.
    public init(
        model: Model, run: RunConfiguration, rankCount: Int, replica: Int = 0, optimizerCopies: Int,
        timings: [LayerTiming]? = nil, flopsPerSecond: Double = 100e9, receiveLookAhead: Int = 4
    ) throws {
        let (time, parallel) = (run.train.sequenceLength, run.parallel)
        try Self.check(model, run)
        for index in parallel.rematerializedLayers { model.blocks[index - 1].isRematerialized = true }
        func cut(replica: Int) -> BatchCut {
            BatchCut(
                rows: run.train.batchSize, time: time, microBatchCount: parallel.microBatches,
                chunkCount: parallel.chunks, share: ReplicaShare(replica: replica, of: parallel.replicas))
        }
        let (cut, fullest) = (cut(replica: replica), cut(replica: parallel.replicas - 1))
        self.cut = cut

        var schedule = try Self.schedule(parallel, rankCount: rankCount, microBatchCount: fullest.microBatchCount)
        let (placement, stageCount) = (schedule.placement, schedule.shape.stageCount)
        guard stageCount <= model.layerCount else {
            throw RunError.stagesExceedLayers(stages: stageCount, layers: model.layerCount)
        }
        let unit = UnitEstimate(
            model: model, cut: cut, replicaCount: parallel.replicas, optimizerCopies: optimizerCopies, timings: timings,
            flopsPerSecond: flopsPerSecond)
        let partition =
            if case .explicit(let counts) = parallel.partition {
                try Self.explicit(counts, layerCount: model.layerCount, stageCount: stageCount)
            } else {
                try Self.byCost(
                    unit.layerCosts(isRecomputed: parallel.rematerialization != .never), schedule,
                    limit: parallel.memoryLimit,
                    reserve: unit.temporaryBytes.max()!)
            }
        let ranges = (0..<stageCount).map { partition.layers(of: $0) }
        stageLayers = ranges

        let options = LoweringOptions(
            receiveLookAhead: receiveLookAhead, reducesReplicas: parallel.replicas > 1)
        schedule.shape.skips = SkipRouting(model.skips, stageLayers: ranges).edges
        self.schedule = schedule
        var own = schedule
        if cut.microBatchCount != fullest.microBatchCount {
            own = try Self.schedule(parallel, rankCount: rankCount, microBatchCount: cut.microBatchCount)
            own.shape.skips = schedule.shape.skips
        }
        training = try Lowering.lower(own, options: options)
        var evaluation = ScheduleCatalog.evaluation(
            placement: placement, microBatchCount: cut.microBatchCount, chunkCount: parallel.chunks)
        evaluation.shape.skips = schedule.shape.skips
        self.evaluation = try Lowering.lower(evaluation, options: options)

        costs = CostModel(stages: ranges.map { unit.stageCost($0) }, latency: 2e-6, bandwidth: 10e9)
        simulation = try Simulator.simulate(schedule, costs, keepsTimeline: true)
        let usage = simulation.ranks
        let layersOfRank = (0..<placement.rankCount).map { rank in placement.stages(of: rank).flatMap { ranges[$0] } }
        let stateBytes = layersOfRank.map { layers in layers.reduce(0) { $0 + unit.fixedBytes[$1] } }
        self.stateBytes = stateBytes
        predictedPeakBytes = layersOfRank.enumerated().map { rank, layers in
            Self.withSlack(stateBytes[rank] + usage[rank].peakBytes + layers.map { unit.temporaryBytes[$0] }.max()!)
        }
    }

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
        for index in parallel.rematerializedLayers where !(1...model.blocks.count).contains(index) {
            throw RunError.usage(
                "parallel.rematerialize names layer \(index); blocks are layers 1 to \(model.blocks.count)")
        }
    }

    /// The order of compute actions, generated or read from a file.
    private static func schedule(
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
        let text = try FileSystem.readText(path)
        let schedule: Schedule
        do throws(ScheduleError) {
            schedule = try Schedule(text: text)
            try Verifier.verify(schedule)
        } catch {
            throw RunError.scheduleFile(path: path, message: "cannot be used: \(error)")
        }
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
                message: "is written for \(has) \(what), the run has \(needs); \(remedy), or use another file")
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
