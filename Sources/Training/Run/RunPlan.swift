import Autograd
import Communication
import Models
import Pipeline
import Tensors

/// How a run is laid out: which layers form which stage, and what every rank does in a step. A pure
/// function of configuration and number of ranks; computed alike on every rank.
public struct RunPlan: Sendable {
    public let stageLayers: [Range<Int>]
    public let cut: BatchCut
    /// Lowered and verified.
    public let training: Schedule
    public let evaluation: Schedule
    /// Estimates per stage; seconds assume `flopsPerSecond`.
    public let stageCosts: [StageCost]
    /// The step that those costs predict.
    public let simulation: Simulation
    /// Bytes of parameters, gradients and optimiser state of each stage.
    public let stateBytes: [Int]

    /// Bytes a rank needs at most: state, activations in flight, and the largest layer's temporaries.
    public let predictedPeakBytes: [Int]

    public var stageCount: Int { stageLayers.count }

    /// - Parameters:
    ///   - stageCount: also the number of ranks.
    ///   - optimizerCopies: state tensors per parameter.
    ///   - layerSeconds: measured forward and backward of each layer's unit; nil estimates from FLOPs.
    ///   - flopsPerSecond: speed used to turn FLOPs into seconds.
    /// - Throws: `RunError`, `PartitionError` or `ScheduleError`; the same on every rank.
    public init(
        model: Model, run: RunConfiguration, stageCount: Int, optimizerCopies: Int, layerSeconds: [Double]? = nil,
        flopsPerSecond: Double = 100e9,
        receiveLookAhead: Int = 4
    ) throws {
        let (time, parallel) = (run.train.sequenceLength, run.parallel)
        let layers = model.layers
        guard stageCount <= layers.count else {
            throw RunError.stagesExceedLayers(stages: stageCount, layers: layers.count)
        }
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
        for index in parallel.rematerializedLayers { model.blocks[index - 1].isRematerialized = true }
        cut = BatchCut(
            rows: run.train.batchSize, time: time, microBatchCount: parallel.microBatches, chunkCount: parallel.chunks)

        let request = ScheduleRequest(
            stageCount: stageCount, microBatchCount: parallel.microBatches, chunkCount: parallel.chunks,
            rematerialization: parallel.rematerialization)
        let schedule = try ScheduleCatalog.training(parallel.schedule, request)
        let options = LoweringOptions(receiveLookAhead: receiveLookAhead)
        training = try Lowering.lower(schedule, options: options)
        evaluation = try Lowering.lower(
            ScheduleCatalog.evaluation(
                stageCount: stageCount, microBatchCount: parallel.microBatches, chunkCount: parallel.chunks),
            options: options)

        // The largest unit of work stands for all: micro-batches and chunks may differ by one row or position.
        let unitRows = (run.train.batchSize + parallel.microBatches - 1) / parallel.microBatches
        let unitTokens = unitRows * ((time + parallel.chunks - 1) / parallel.chunks)
        let copies = 2 + optimizerCopies
        let isRecomputed = parallel.rematerialization != .never
        let seconds = layers.enumerated().map { index, layer -> (forward: Double, backward: Double) in
            let forward = layer.forwardFLOPsPerToken(time: time)
            let backward = layer.backwardFLOPsPerToken(time: time)
            // A profile has the sum; FLOPs say how it divides.
            let scale =
                layerSeconds.map { $0[index] / (forward + backward) } ?? Double(unitTokens) / flopsPerSecond
            return (forward * scale, backward * scale)
        }
        let costs = layers.enumerated().map { index, layer in
            LayerCost(
                time: seconds[index].forward * (isRecomputed ? 2 : 1) + seconds[index].backward,
                fixedBytes: layer.uses.reduce(0) { $0 + $1.parameter.shape.count } * 4 * copies,
                activationBytes: layer.savedPerToken * unitTokens * 4)
        }
        // While a layer runs, gradients of what it saved lie beside it, and messages come and go; the head holds
        // a block of logits.
        let headRows = Tape.crossEntropyBlockRows(rows: unitTokens, vocabulary: model.vocabularySize)
        let temporaries = layers.enumerated().map { index, layer in
            let work =
                index == layers.count - 1
                ? max(layer.savedPerToken * unitTokens, headRows * model.vocabularySize)
                : layer.savedPerToken * unitTokens
            let messageWidth = max(
                index == 0 ? 0 : layers[index - 1].outputWidth, index == layers.count - 1 ? 0 : layer.outputWidth)
            return 4 * (work + 4 * messageWidth * unitTokens)
        }
        let partition =
            if case .explicit(let counts) = parallel.partition {
                try Self.explicit(counts, layerCount: layers.count, stageCount: stageCount)
            } else {
                try Self.byCost(costs, stageCount, schedule, limit: parallel.memoryLimit, reserve: temporaries.max()!)
            }
        let ranges = (0..<stageCount).map { partition.layers(of: $0) }
        stageLayers = ranges
        let stateBytes = ranges.map { $0.reduce(0) { $0 + costs[$1].fixedBytes } }
        self.stateBytes = stateBytes
        let stageCosts = ranges.map { range in
            let forward = range.reduce(0.0) { $0 + seconds[$1].forward }
            let backward = range.reduce(0.0) { $0 + seconds[$1].backward }
            return StageCost(
                forward: forward, inputGradient: backward / 2, weightGradient: backward / 2, recompute: forward,
                outputBytes: range.upperBound == layers.count
                    ? 0 : layers[range.upperBound - 1].outputWidth * unitTokens * 4,
                activationBytes: range.reduce(0) { $0 + costs[$1].activationBytes },
                inputBytes: range.lowerBound == 0 ? 0 : layers[range.lowerBound - 1].outputWidth * unitTokens * 4)
        }
        self.stageCosts = stageCosts
        simulation = try Simulator.simulate(
            schedule, CostModel(stages: stageCosts, messages: MessageCost(latency: 2e-6, bandwidth: 10e9)), keepsTimeline: true)
        let usage = simulation.ranks
        predictedPeakBytes = ranges.enumerated().map { stage, range in
            Self.withSlack(stateBytes[stage] + usage[stage].peakBytes + range.map { temporaries[$0] }.max()!)
        }
    }

    /// Buffers are rounded up to size classes, by a quarter at most.
    private static func withSlack(_ bytes: Int) -> Int { bytes / 4 * 5 }

    /// The fastest cut whose predicted peaks stay under the limit, as far as the largest temporaries of any layer
    /// tell.
    private static func byCost(
        _ costs: [LayerCost], _ stageCount: Int, _ schedule: Schedule, limit: Int?, reserve: Int
    ) throws -> Partition {
        let allowed = limit.map { max(0, $0 / 5 * 4 - reserve) }
        let result = Result { () throws(PartitionError) -> Partition in
            try Partition(
                layers: costs, stageCount: stageCount, liveUnits: schedule.peakUnits, memoryLimit: allowed)
        }
        if case .failure(.outOfMemory(_, let need, let cut)) = result {
            throw RunError.memory(limit: limit!, need: withSlack(need + reserve), cut: cut)
        }
        return try result.get()
    }

    private static func explicit(_ counts: [Int], layerCount: Int, stageCount: Int) throws -> Partition {
        guard counts.count == stageCount else {
            throw RunError.rankCount(
                stages: counts.count, ranks: stageCount,
                remedy: "parallel.partition needs one number of layers per rank")
        }
        return try Partition(layerCounts: counts, layerCount: layerCount)
    }
}
