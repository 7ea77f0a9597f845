import Communication
import Foundation
import Kernels
import Models
import Pipeline
import Tensors

/// What `seqtrain bench` reports.
public struct BenchResult: Sendable {
    /// Sorted by name of meaning, not alphabet: the order of the JSON object.
    public let fields: [JSON.Member]
    public let text: String

    public var json: JSON { .object(fields) }
}

/// Throughput of whole training steps: forward, backward, norm, update.
enum Bench {
    /// Collective.
    static func measure(session: Session, data: DataSet, warmup: Int, steps: Int) throws -> BenchResult {
        let communicator = session.communicator
        session.materializeParameters()
        session.prepareOptimizer()
        session.runtime.keepsCarryAcrossBatches = data.isStream
        // Ranks share cores with each other: each measures the peak while the others wait.
        var peaks: [Double] = []
        for rank in 0..<communicator.size {
            if rank == communicator.rank { peaks.append(GEMM.measurePeak()) }
            try communicator.barrier()
        }
        let peak = try communicator.allGather(peaks[0]).reduce(0, max)

        var seconds: [Double] = []
        var bubbles: [Double] = []
        var spans: [Double] = []
        let recorder = TraceRecorder(capacity: 1 << 18)
        var tokens = 0
        var sentBefore = 0
        var allocationsBefore = 0
        for step in 1...warmup + steps {
            let batch = data.trainingBatch(step: step)
            if step == warmup + 1 {
                sentBefore = session.bytesSent
                allocationsBefore = session.context.pool.systemAllocationCount
                session.recorder = recorder
            }
            let result = try session.trainStep(batch, step: step, rate: session.run.learningRate.rate(step: step))
            // The last rank to finish sets the time of a step.
            let slowest = try communicator.maximum(result.seconds)
            if step > warmup {
                seconds.append(slowest)
                let busy = try communicator.allGather(result.timing.busy)
                let span = try communicator.maximum(result.timing.span)
                spans.append(span)
                bubbles.append(1 - busy.reduce(0, +) / (span * Double(busy.count)))
            }
            tokens = result.tokenCount
        }
        let allocations = session.context.pool.systemAllocationCount - allocationsBefore
        let peakMemory = try communicator.allGather(Double(session.context.pool.peakBytes))
        let categories = try MemoryCategory.allCases.map {
            try communicator.allGather(Double(session.context.pool.peakBytes($0)))
        }
        // The ranks of a job count through one pipeline after the other.
        let replicas = session.share.replicaCount
        session.recorder = nil
        let timelines = try session.gatherTimelines(recorder) ?? []
        let comparison = ActionComparison.table(timelines, session.plan.layout.costs)
        var measuredCosts = ActionComparison.measured(comparison, session.plan.layout.costs)
        measuredCosts.step = 0
        let simulated = try Simulator.simulate(session.plan.training, measuredCosts)
        let span = spans.sorted()[spans.count / 2]
        let planned = (0..<replicas).flatMap { _ in session.plan.layout.predictedPeakBytes }
        let sent = try communicator.allGather(Double(session.bytesSent - sentBefore) / Double(steps))
        let newBuffers = try communicator.allGather(Double(allocations))
        let bubble = bubbles.sorted()[bubbles.count / 2]

        let sorted = seconds.sorted()
        let median = sorted[sorted.count / 2]
        let flopsPerToken = session.model.trainingFLOPsPerToken(time: session.run.train.sequenceLength)
        let flops = flopsPerToken * Double(tokens) / median
        let threads = session.context.threads.threadCount
        let parallel = session.run.parallel
        let predicted = session.plan.layout.simulation.bubbleFraction

        func rate(_ seconds: Double) -> JSON { .double(Double(tokens) / seconds) }
        let fields: [JSON.Member] = [
            .init("tokens_per_second", rate(median)),
            .init("tokens_per_second_min", rate(sorted.last!)),
            .init("tokens_per_second_max", rate(sorted[0])),
            .init("step_seconds", .double(median)),
            .init("model_flops_per_token", .double(flopsPerToken)),
            .init("flops_per_second", .double(flops)),
            .init("gemm_peak_flops_per_second", .double(peak)),
            .init("utilisation", .double(flops / (peak * Double(threads * communicator.size)))),
            .init("peak_memory_bytes", .array(peakMemory.map { .int(Int($0)) })),
            .init(
                "peak_memory_by_category",
                .object(
                    zip(MemoryCategory.allCases, categories).map { category, bytes in
                        .init("\(category)", .array(bytes.map { .int(Int($0)) }))
                    })),
            .init("planned_memory_bytes", .array(planned.map { .int($0) })),
            .init("bubble_fraction_measured", .double(bubble)),
            .init("bubble_fraction_predicted", .double(predicted)),
            .init("bubble_fraction_simulated", .double(simulated.bubbleFraction)),
            .init("step_seconds_predicted", .double(session.plan.layout.stepSeconds)),
            .init("pipeline_seconds_measured", .double(span)),
            .init("pipeline_seconds_simulated", .double(simulated.makespan)),
            .init("actions", .array(comparison.map(\.json))),
            .init("bytes_sent", .array(sent.map { .int(Int($0)) })),
            .init("buffer_allocations_after_warmup", .array(newBuffers.map { .int(Int($0)) })),
            .init("parameters", .int(session.model.registry.elementCount)),
            .init("ranks", .int(communicator.size)),
            .init("replicas", .int(replicas)),
            .init("threads", .int(threads)),
            .init("micro_batches", .int(parallel.microBatches)),
            .init("chunks", .int(parallel.chunks)),
            .init("schedule", .string(parallel.schedule.description)),
            .init("kernel_variant", .string(KernelVariant.current.description)),
        ]
        let text = String(
            format: """
                %.0f tokens/s (median of %d steps, %.0f to %.0f), %.1f ms per step
                %.1f GFLOP/s of %.1f GFLOP/s measured GEMM peak per core: %.0f %% on %d ranks × %d threads
                bubble %.1f %% measured, %.1f %% predicted; step %.1f ms predicted; pipeline %.1f ms measured, %.1f ms simulated
                from measured actions; peak memory %@ per rank (planned %@)
                """,
            Double(tokens) / median, steps, Double(tokens) / sorted.last!, Double(tokens) / sorted[0], 1e3 * median,
            flops / 1e9, peak / 1e9, 100 * flops / (peak * Double(threads * communicator.size)), communicator.size,
            threads, 100 * bubble, 100 * predicted, 1e3 * session.plan.layout.stepSeconds, 1e3 * span,
            1e3 * simulated.makespan,
            peakMemory.map { ModelDescription.bytes(Int($0)) }.joined(separator: ", "),
            planned.map { ModelDescription.bytes($0) }.joined(separator: ", "))
        return BenchResult(fields: fields, text: text)
    }
}
