import Models
import Pipeline

/// How a run is laid out on every rank, and what each does in a step. A pure function of configuration and number of
/// ranks; computed alike on every rank.
///
/// Ranks are those of one pipeline. Replicas differ in their share of the micro-batches only; the layout is that of a
/// replica with most, so that it is the same for all.
public struct RunPlan: Sendable {
    public let layout: Layout
    /// This replica's share of a batch.
    public let cut: BatchCut
    /// What this replica does; lowered and verified.
    public let training: Schedule
    public let evaluation: Schedule

    public var stageLayers: [Range<Int>] { layout.stageLayers }
    public var placement: Placement { layout.placement }
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
    /// - Throws: `RunError`, `PartitionError` or `ScheduleError`; the same on every rank.
    public init(
        model: Model, run: RunConfiguration, rankCount: Int, replica: Int = 0, optimizerCopies: Int,
        timings: [LayerTiming]? = nil, receiveLookAhead: Int = 4
    ) throws {
        let parallel = run.parallel
        for index in parallel.rematerializedLayers where index < model.layerCount {
            (model.layers[index] as? Block)?.isRematerialized = true
        }
        layout = try Layout(
            model: model, run: run, rankCount: rankCount, optimizerCopies: optimizerCopies, timings: timings,
            keepsTimeline: true)
        cut = BatchCut(run, replica: replica)
        var own = layout.schedule
        if cut.microBatchCount != own.shape.microBatchCount {
            own = try Layout.schedule(
                parallel, rankCount: rankCount, microBatchCount: cut.microBatchCount, ring: layout.ring)
            own.shape.skips = layout.schedule.shape.skips
        }
        let options = LoweringOptions(receiveLookAhead: receiveLookAhead, reducesReplicas: parallel.replicas > 1)
        training = try Lowering.lower(own, options: options)
        var evaluation = ScheduleCatalog.evaluation(
            placement: layout.placement, microBatchCount: cut.microBatchCount, chunkCount: parallel.chunks)
        evaluation.shape.skips = own.shape.skips
        self.evaluation = try Lowering.lower(evaluation, options: options)
    }
}

extension BatchCut {
    /// One replica's share of the batch that a configuration describes.
    init(_ run: RunConfiguration, replica: Int) {
        let parallel = run.parallel
        self.init(
            rows: run.train.batchSize, time: run.train.sequenceLength, microBatchCount: parallel.microBatches,
            chunkCount: parallel.chunks, share: ReplicaShare(replica: replica, of: parallel.replicas))
    }
}
