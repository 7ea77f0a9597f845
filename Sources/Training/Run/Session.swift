import Autograd
import Communication
import Foundation
import Kernels
import Models
import Pipeline
import Tensors

/// One rank's part of a job: its stage of the model, its buffers, and the ways to run a batch through
/// the pipeline. Training, evaluation, probes and benchmarks are built on it.
///
/// With replicas every pipeline runs its share of each batch. Losses and norms are added over all ranks in rank order,
/// that is replica by replica; after a step all replicas have the same parameters.
public final class Session {
    public let run: RunConfiguration
    public let model: Model
    public let plan: RunPlan
    /// All ranks of the job.
    public let communicator: any Communicator
    /// The ranks of this rank's replica of the pipeline.
    public let pipeline: any Communicator
    /// What replicas tell each other; nil when there is one pipeline.
    public let exchange: ReplicaExchange?
    /// This replica's share of micro-batches and optimiser state.
    public let share: ReplicaShare
    public let context: ComputeContext
    public let runtime: StageRuntime
    public let tied: TiedGradients
    public let optimizer: Optimizer
    private let trainer: Interpreter
    private let evaluator: Interpreter
    private var scheduleBytesSent = 0
    /// Bytes handed to the transport so far by the schedules' messages and the exchange between replicas.
    public var bytesSent: Int { scheduleBytesSent + (exchange?.bytesSent ?? 0) }

    public var rank: Int { communicator.rank }
    /// Layers of this rank's stages, ascending.
    public var ownedLayers: [Int] { plan.layers(ofRank: pipeline.rank) }
    /// Records the actions of training steps while it is set.
    public var recorder: TraceRecorder? {
        get { trainer.recorder }
        set { trainer.recorder = newValue }
    }

    /// What came of one training step; the same on every rank but for the timings.
    public struct StepResult: Sendable {
        /// Cross-entropy, in nats per counted token; with exits the last one's.
        public var loss: Double
        /// Factor of the loss among what is minimised.
        public var lossWeight: Double
        /// What else the gradients are of, by term, factors included: means over micro-batches, summed over layers in
        /// order; of exits means over counted tokens; `masked_token` the mean over the targets of a prefix.
        public var auxiliary: [String: Double]
        /// Global norm before clipping.
        public var gradientNorm: Double
        /// Wall seconds of the step on this rank.
        public var seconds: Double
        /// Where this rank's time went; the bubble of a step needs all ranks' timings.
        public var timing: StepTiming
        public var tokenCount: Int
        /// Some rank asked to stop.
        public var stopRequested: Bool

        /// What is minimised: the loss and all that is added to it.
        public var objective: Double {
            auxiliary.sorted { $0.key < $1.key }.reduce(lossWeight * loss) { $0 + $1.value }
        }
    }

    /// What came of an evaluation; the same on every rank.
    public struct Evaluation: Sendable, Equatable {
        /// Sum over counted tokens, in nats.
        public var loss = 0.0
        /// Counted tokens whose target has the largest logit.
        public var hits = 0
        /// Counted tokens.
        public var tokens = 0
        /// Sequences with counted tokens, all of which are hits.
        public var rightSequences = 0
        /// Sequences with counted tokens.
        public var sequences = 0
        /// Means over positions of what layers tell of themselves, such as the `steps` of adaptive halting.
        public var statistics: [Statistic] = []

        /// Nats per counted token.
        public var meanLoss: Double { loss / Double(max(1, tokens)) }
        /// Share of hits.
        public var accuracy: Double { Double(hits) / Double(max(1, tokens)) }
        /// Share of sequences that are right from end to end.
        public var sequenceAccuracy: Double { Double(rightSequences) / Double(max(1, sequences)) }

        /// Takes in the rows of a batch: counted tokens of each, and the hits among them.
        mutating func add(hitCounts: [Int], targetCounts: [Int]) {
            for (hitCount, targetCount) in zip(hitCounts, targetCounts) where targetCount > 0 {
                hits += hitCount
                tokens += targetCount
                rightSequences += hitCount == targetCount ? 1 : 0
                sequences += 1
            }
        }
    }

    /// One of the model's statistics, or what follows from some.
    public struct Statistic: Sendable, Equatable {
        /// Canonical prefix of the layer.
        public var layer: String
        public var term: String
        public var value: Double
    }

    /// Collective: every rank passes the same configuration and model.
    ///
    /// - Parameter timings: a profile to cut by; nil cuts by FLOPs.
    public init(
        run: RunConfiguration, model: Model, communicator: any Communicator, timings: [LayerTiming]? = nil
    ) throws {
        self.run = run
        self.model = model
        self.communicator = communicator
        let layout = try RankLayout(run.parallel, communicator)
        (pipeline, share) = (layout.pipeline, layout.share)
        context = ComputeContext(threadCount: Self.threadCount(run, communicator))
        // An error shows again, and is reported, at the interpreter's own next call.
        if communicator.size > 1 { context.betweenOperations = { try? communicator.poke() } }
        optimizer = Optimizer(run.optimizer, share: share, context: context)
        plan = try RunPlan(
            model: model, run: run, rankCount: pipeline.size, replica: share.replica,
            optimizerCopies: optimizer.stateNames.count, timings: timings)
        runtime = StageRuntime(
            model: model, stageLayers: plan.stageLayers, forwardOnly: plan.training.shape.forwardOnly, seed: run.seed,
            context: context)

        var rankOfUse: [ObjectIdentifier: Int] = [:]
        for (stage, layers) in plan.stageLayers.enumerated() {
            for use in layers.flatMap({ model.layers[$0].uses }) {
                rankOfUse[ObjectIdentifier(use)] = plan.placement.ranks[stage]
            }
        }
        tied = TiedGradients(parameters: model.registry.parameters) { rankOfUse[ObjectIdentifier($0)]! }

        exchange = try layout.replicas.map { [context] in
            try ReplicaExchange(parameters: model.registry.parameters, communicator: $0, context: context)
        }
        communicator.timeout = run.parallel.deadlineSeconds
        trainer = try Interpreter(plan.training, communicator: pipeline)
        evaluator = try Interpreter(plan.evaluation, communicator: pipeline)
        try communicator.checkAgreement(on: "kernel variant", KernelVariant.current.description)
    }

    /// `threads: auto` shares the node's cores out over its ranks.
    static func threadCount(_ run: RunConfiguration, _ communicator: any Communicator) -> Int {
        run.parallel.threads ?? max(1, communicator.localCoreCount / communicator.localSize)
    }

    /// Parameters that this rank holds, with their canonical index.
    public var heldParameters: [(index: Int, parameter: Parameter)] {
        model.registry.parameters.enumerated().filter { tied.isHeld($0.offset, by: pipeline.rank) }
            .map { ($0.offset, $0.element) }
    }

    /// Draws the parameters of this rank's layers.
    public func materializeParameters() {
        for (_, parameter) in heldParameters { parameter.materialize(seed: run.seed, context) }
    }

    /// As above, and takes them from `train.initialize_from` where it is set. Collective.
    ///
    /// - Returns: what was taken from where; nil when all are drawn.
    public func initializeParameters() throws -> String? {
        materializeParameters()
        guard let source = run.train.initialization else { return nil }
        return try Collective.agree(communicator) {
            try WeightInitialization(source, seed: run.seed).apply(to: model, held: heldParameters.map(\.parameter))
        }
    }

    /// Allocates the optimiser's state for them.
    public func prepareOptimizer() {
        for (_, parameter) in heldParameters { optimizer.prepare(parameter) }
    }

    /// Forward, backward and update of one batch. Collective.
    ///
    /// - Parameters:
    ///   - step: counted from 1.
    ///   - updates: false leaves parameters alone and hands the reduced gradients to `onGradients`.
    /// - Throws: `RunError.nonFinite` on every rank, before any parameter has changed.
    public func trainStep(
        _ batch: TokenBatch, step: Int, rate: Double, stopRequested: Bool = false, lastCheckpoint: String? = nil,
        onGradients: (([Int: Tensor]) throws -> Void)? = nil
    ) throws -> StepResult {
        let start = ContinuousClock.now
        let tokenCount = max(1, batch.targetCount)
        var gradients: [Int: TensorPiece] = [:]
        var result = StepResult(
            loss: .nan, lossWeight: model.head.lossTerms[0].weight, auxiliary: [:], gradientNorm: .nan, seconds: 0,
            timing: StepTiming(), tokenCount: tokenCount,
            stopRequested: false)
        runtime.onReduceReplicas = { [self] stage in
            try exchange!.startSums(plan.stageLayers[stage].flatMap { model.layers[$0].uses }.filter(\.hasGradient))
        }
        runtime.onReduceTied = { [self] in
            try exchange?.completeSums()
            gradients = try tied.reduce(pipeline, share: share, context)
        }
        runtime.onStep = { [self] in
            let sums = try globalSums(gradients, stopRequested: stopRequested)
            result.loss = sums.losses[0] / Double(tokenCount)
            for (term, sum) in zip(model.head.lossTerms, sums.losses).dropFirst() {
                result.auxiliary[term.name] = term.weight * sum / Double(tokenCount)
            }
            if let prefix = batch.prefix {
                result.auxiliary["masked_token"] =
                    prefix.weight * sums.prefixLoss / Double(max(1, batch.prefixTargetCount))
            }
            for (key, value) in zip(model.auxiliaryTerms, sums.auxiliary) {
                result.auxiliary[key.term, default: 0] += value
            }
            result.gradientNorm = sums.squares.reduce(0, +).squareRoot()
            result.stopRequested = sums.stopRequests > 0
            guard result.objective.isFinite, result.gradientNorm.isFinite else {
                let culprit = sums.squares.firstIndex { !$0.isFinite }.map { model.registry.parameters[$0].name }
                throw RunError.nonFinite(
                    step: step, loss: result.objective, firstParameter: culprit, checkpoint: lastCheckpoint)
            }
            if let onGradients {
                try onGradients(whole(gradients))
            } else {
                try update(gradients, norm: result.gradientNorm, step: step, rate: rate)
            }
        }
        runtime.begin(batch: batch, cut: plan.cut, step: step, isTraining: true)
        do {
            result.timing = try trainer.run(runtime)
        } catch {
            exchange?.abandon()
            // What STEP throws is about the run, not about an action, and all ranks throw it.
            throw error.underlying is RunError ? error.underlying : error
        }
        scheduleBytesSent += result.timing.bytesSent
        runtime.finish()
        for (_, parameter) in heldParameters { for use in parameter.uses { use.resetGradient() } }
        result.seconds = (ContinuousClock.now - start).seconds
        return result
    }

    /// Loss and hits over `batches`, without touching parameters or the state of the training streams. Collective.
    public func evaluate(_ batches: some Sequence<TokenBatch>, isStream: Bool) throws -> Evaluation {
        let saved = runtime.batchCarry
        let keeps = runtime.keepsCarryAcrossBatches
        runtime.keepsCarryAcrossBatches = isStream
        runtime.restoreBatchCarry([:])
        defer {
            runtime.keepsCarryAcrossBatches = keeps
            runtime.restoreBatchCarry(saved)
        }
        var result = Evaluation()
        var sums = model.statisticTerms.map { _ in LayerStatistics.Sum() }
        for batch in batches {
            let cut = BatchCut(
                rows: batch.rows, time: batch.time, microBatchCount: plan.cut.totalMicroBatchCount,
                chunkCount: plan.cut.chunkCount, share: share)
            runtime.begin(
                batch: batch, cut: cut, step: 0, isTraining: false, routesCausally: run.eval.routing == .causal)
            scheduleBytesSent += try evaluator.run(runtime).bytesSent
            result.loss += runtime.lossTotals[0]
            result.add(hitCounts: runtime.hitCounts, targetCounts: batch.targetCounts)
            for (index, sum) in runtime.statisticTotals.enumerated() { sums[index] += sum }
            runtime.finish()
        }
        // A count below 2⁵³ is exact in Double, so its sum is the same for any number of ranks.
        result.loss = try communicator.sum(result.loss)
        result.hits = Int(try communicator.sum(Double(result.hits)))
        result.rightSequences = Int(try communicator.sum(Double(result.rightSequences)))
        result.statistics = try means(sums)
        return result
    }

    /// Collective.
    private func means(_ sums: [LayerStatistics.Sum]) throws -> [Statistic] {
        let means = try sums.map { sum in
            let (total, count) = (try communicator.sum(sum.total), try communicator.sum(Double(sum.count)))
            return total / max(1, count)
        }
        var next = 0
        return model.layers.flatMap { layer in
            let own = Array(means[next..<next + layer.statisticTerms.count])
            next += own.count
            return (zip(layer.statisticTerms, own) + layer.derivedStatistics(own)).map {
                Statistic(layer: layer.name, term: $0, value: $1)
            }
        }
    }

    /// What must be added over ranks once per step. Every entry has one contributor per replica, so the sum is
    /// the same for any number of ranks in a pipeline; the norm adds parameters in canonical order.
    private func globalSums(
        _ gradients: [Int: TensorPiece], stopRequested: Bool
    ) throws -> (squares: [Double], losses: [Double], prefixLoss: Double, stopRequests: Double, auxiliary: [Double]) {
        let count = model.registry.parameters.count
        let losses = runtime.lossTotals
        var values =
            [Double](repeating: 0, count: count) + [stopRequested ? 1 : 0, runtime.prefixLossTotal] + losses
            + runtime.auxiliaryTotals
        for (index, gradient) in gradients
        where tied.owner(index) == pipeline.rank && model.registry.parameters[index].hasGradient {
            values[index] = Reductions.sumOfSquares(gradient.pointer, count: gradient.count, threads: context.threads)
        }
        try values.withUnsafeMutableBufferPointer { try communicator.sum($0) }
        let afterLosses = count + 2 + losses.count
        return (
            Array(values[..<count]), Array(values[count + 2..<afterLosses]), values[count + 1], values[count],
            Array(values[afterLosses...])
        )
    }

    private func update(_ gradients: [Int: TensorPiece], norm: Double, step: Int, rate: Double) throws {
        var scale = 1.0
        if let limit = run.optimizer.clipNorm, norm > limit { scale = limit / norm }
        for (index, parameter) in heldParameters {
            optimizer.update(parameter, gradient: gradients[index]!, scale: scale, rate: rate, step: step)
            try exchange?.startGather(parameter.value, parameter: index)
        }
        guard let exchange else { return }
        try exchange.completeGathers()
        for (_, parameter) in heldParameters { parameter.valueChanged() }
    }

    /// Whole gradients from the replicas' pieces. Collective.
    private func whole(_ pieces: [Int: TensorPiece]) throws -> [Int: Tensor] {
        var result: [Int: Tensor] = [:]
        for (index, parameter) in heldParameters {
            let piece = pieces[index]!
            guard let exchange else {
                result[index] = piece.tensor.reshaped(parameter.shape)
                continue
            }
            let tensor = context.tensor(parameter.shape, .gradients)
            (tensor.pointer + piece.range.lowerBound).update(from: piece.pointer, count: piece.count)
            try exchange.startGather(tensor, parameter: index)
            result[index] = tensor
        }
        try exchange?.completeGathers()
        return result
    }
}

extension Duration {
    /// The duration in seconds.
    var seconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) + Double(attoseconds) * 1e-18
    }
}
