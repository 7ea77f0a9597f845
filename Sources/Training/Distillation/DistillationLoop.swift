import Foundation
import Models
import Pipeline

/// The loop of `seqtrain distill`: steps, progress, metrics, checkpoints, and a report at the end. A run that was
/// interrupted goes on from its latest checkpoint, as in training.
final class DistillationLoop {
    private let session: Session
    private let data: DataSet
    private let configuration: DistillationConfiguration
    private let display: ProgressDisplay
    private let teacher: Teacher
    private let store: CheckpointStore?
    private var run: RunConfiguration { session.run }

    /// - Parameter resolved: the configuration with every default, kept in the run directory.
    init(
        session: Session, data: DataSet, configuration: DistillationConfiguration, display: ProgressDisplay,
        resolved: String
    ) throws {
        (self.session, self.data, self.configuration, self.display) = (session, data, configuration, display)
        teacher = try Teacher(configuration, data: data, context: session.context)
        store = try session.run.checkpoint.directory.map {
            try CheckpointStore(directory: $0, session: session, data: data, resolvedConfiguration: resolved)
        }
    }

    func train() throws -> (checkpoint: String?, report: String) {
        session.prepareOptimizer()
        var first = 1
        var checkpoint: String?
        if let state = try store?.resume() {
            (first, checkpoint) = (state.step + 1, state.path)
            display.message("resumed from \(state.path) after step \(state.step)")
        } else if let summary = try session.initializeParameters() {
            display.message(summary)
        }
        let distiller = try Distiller(session: session, teacher: teacher, configuration: configuration)
        let metrics = try store.map { try MetricsLog(path: $0.directory + "/metrics.jsonl", lastStep: first - 1) }
        display.message(
            "\(distiller.ranges.count) blocks for \(teacher.depth) layers: "
                + distiller.ranges.map { "\($0.lowerBound)-\($0.upperBound - 1)" }.joined(separator: " | ")
                + "; \(configuration.blockSteps) steps alone, \(run.train.steps - configuration.blockSteps) together")
        StopSignal.shared.install()
        for step in stride(from: first, through: run.train.steps, by: 1) {
            let (start, rate) = (ContinuousClock.now, run.learningRate.rate(step: step))
            let batch = data.trainingBatch(step: step)
            let result = try distiller.trainStep(batch, step: step, rate: rate)
            let seconds = (ContinuousClock.now - start).seconds
            let isLast = step == run.train.steps
            display.show(
                ProgressReport(
                    step: step, stepCount: run.train.steps, loss: result.loss, learningRate: rate,
                    gradientNorm: result.gradientNorm, tokensPerSecond: Double(batch.inputs.count) / seconds, bubble: 0,
                    secondsLeft: Double(run.train.steps - step) * seconds),
                isMilestone: step == 1 || isLast || step % run.logEvery == 0)
            try metrics?.append([
                .init("step", .int(step)), .init("loss", .double(result.loss)), .init("learning_rate", .double(rate)),
                .init("gradient_norm", .double(result.gradientNorm)),
                .init("stage", .int(step <= configuration.blockSteps ? 1 : 2)),
                .init("forcing", .double(configuration.forcing(step: step))), .init("seconds", .double(seconds)),
            ])
            let isStopped = StopSignal.shared.isRequested && !isLast
            if isLast || isStopped || (run.checkpoint.every > 0 && step % run.checkpoint.every == 0) {
                checkpoint = try store?.save(step: step)
            }
            if isStopped { throw RunError.preempted(step: step, checkpoint: checkpoint) }
        }
        return (checkpoint, try report(distiller))
    }

    /// How far every layer is from the teacher's, and what the student makes of it as a language model with the teacher's
    /// embedding and head.
    private func report(_ distiller: Distiller) throws -> String {
        func batches() throws -> some Sequence<TokenBatch> {
            try data.evaluationBatches(split: .valid, limit: run.eval.batches)
        }
        let errors = distiller.evaluate(try batches())
        let cut = session.plan.cut
        let runner = try PathRunner(model: teacher.model, context: session.context)
        let original = runner.evaluate(
            try batches(), path: Array(0..<teacher.depth), microBatchCount: cut.totalMicroBatchCount, chunkCount: 1)
        let student = try session.evaluate(try batches(), isStream: false)
        let rows = errors.enumerated().map { layer, value in
            String(format: "%5d  %12.4e  %12.4f", layer, value.error, value.error / max(value.square, 1e-30))
        }
        return
            (["layer         error  of the square"] + rows + [
                String(
                    format: "valid loss, nats/token: teacher %.6f, student %.6f; right: %.2f %%, %.2f %%",
                    original.meanLoss, student.meanLoss, 100 * original.accuracy, 100 * student.accuracy)
            ]).joined(separator: "\n")
    }
}
