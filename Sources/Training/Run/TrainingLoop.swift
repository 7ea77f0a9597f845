import Communication
import Foundation
import Kernels
import Models
import Pipeline
import Tensors

/// The training loop of one rank: batches, steps, validation, checkpoints, metrics, progress, a sample
/// at the end. All ranks run it; rank 0 alone writes to the screen and the metrics file.
public final class TrainingLoop {
    private let session: Session
    private let data: DataSet
    private let display: ProgressDisplay
    private let store: CheckpointStore?
    private var metrics: MetricsLog?
    private var run: RunConfiguration { session.run }
    private var isReporter: Bool { session.rank == 0 }
    private var lastCheckpoint: String?

    public struct Outcome: Sendable {
        public var steps: Int
        public var trainingLoss: Double
        public var validationLoss: Double?
        public var checkpoint: String?
        public var sample: String?
    }

    /// - Parameter resolved: the configuration with every default, kept in the run directory.
    public init(session: Session, data: DataSet, display: ProgressDisplay, resolved: String) throws {
        self.session = session
        self.data = data
        self.display = display
        store = try session.run.checkpoint.directory.map {
            try CheckpointStore(directory: $0, session: session, data: data, resolvedConfiguration: resolved)
        }
    }

    /// Runs to the last step, or until a signal asks to stop.
    ///
    /// Collective. - Throws: `RunError.nonFinite`, `RunError.preempted`, and errors of files and ranks.
    public func train() throws -> Outcome {
        session.runtime.keepsCarryAcrossBatches = data.isStream
        session.prepareOptimizer()
        var step = 0
        if let store {
            if let state = try store.resume() {
                step = state.step
                lastCheckpoint = state.path
                report("resumed from \(state.path) after step \(step)")
            } else {
                session.materializeParameters()
            }
            if isReporter { metrics = try MetricsLog(path: store.directory + "/metrics.jsonl", lastStep: step) }
        } else {
            session.materializeParameters()
        }
        reportPlan()

        var outcome = Outcome(steps: step, trainingLoss: .nan)
        var window = Window()
        let total = run.train.steps
        StopSignal.shared.install()
        while step < total {
            step += 1
            let rate = run.learningRate.rate(step: step)
            let batch = try data.trainingBatch(step: step)
            if step <= run.parallel.traceSteps { session.tracer.isOn = true }
            let result = try session.trainStep(
                batch, step: step, rate: rate, stopRequested: StopSignal.shared.isRequested,
                lastCheckpoint: lastCheckpoint)
            if step == run.parallel.traceSteps { try writeTrace() }
            window.add(result)
            outcome.trainingLoss = result.loss

            let isLast = step == total
            let validates = run.eval.every > 0 && (step % run.eval.every == 0 || isLast)
            if validates {
                let (loss, tokens) = try session.evaluate(
                    data.validationBatches(limit: run.eval.batches), isStream: data.isStream)
                outcome.validationLoss = loss / Double(max(1, tokens))
            }
            let reports = step % run.logEvery == 0 || isLast || validates || step == 1
            if isReporter {
                try show(result, step, rate, window, validates ? outcome.validationLoss : nil, isMilestone: reports)
            }
            if reports { window = Window() }

            let saves = isLast || result.stopRequested || (run.checkpoint.every > 0 && step % run.checkpoint.every == 0)
            if saves, let store { lastCheckpoint = try store.save(step: step) }
            if result.stopRequested, !isLast { throw RunError.preempted(step: step, checkpoint: lastCheckpoint) }
        }
        outcome.steps = step
        outcome.checkpoint = lastCheckpoint
        if let request = run.generate {
            outcome.sample = try TextGenerator(session: session, data: data).generate(request)
        }
        return outcome
    }

    /// Sums between two reports.
    private struct Window {
        var seconds = 0.0, tokens = 0, bubble = 0.0, steps = 0

        mutating func add(_ result: Session.StepResult) {
            seconds += result.seconds
            tokens += result.tokenCount
            bubble += result.bubble
            steps += 1
        }
    }

    private func show(
        _ result: Session.StepResult, _ step: Int, _ rate: Double, _ window: Window, _ validation: Double?,
        isMilestone: Bool
    ) throws {
        let tokensPerSecond = Double(window.tokens) / window.seconds
        let bubble = window.bubble / Double(window.steps)
        display.show(
            ProgressReport(
                step: step, stepCount: run.train.steps, loss: result.loss, validationLoss: validation,
                learningRate: rate, gradientNorm: result.gradientNorm, tokensPerSecond: tokensPerSecond,
                bubble: bubble, secondsLeft: Double(run.train.steps - step) * window.seconds / Double(window.steps)),
            isMilestone: isMilestone)
        var fields: [(String, JSONValue)] = [
            ("step", .int(step)), ("loss", .double(result.loss)), ("learning_rate", .double(rate)),
            ("gradient_norm", .double(result.gradientNorm)), ("tokens", .int(result.tokenCount)),
            ("seconds", .double(result.seconds)), ("bubble", .double(result.bubble)),
        ]
        if let validation { fields.append(("validation_loss", .double(validation))) }
        try metrics?.append(fields)
    }

    private func report(_ text: String) { if isReporter { display.message(text) } }

    private func reportPlan() {
        let parameters = session.model.registry.elementCount
        report(
            "\(session.model.layerCount) layers, \(parameters) parameters; \(session.communicator.size) "
                + (session.communicator.size == 1 ? "rank" : "ranks") + " × \(session.context.threads.threadCount) "
                + (session.context.threads.threadCount == 1 ? "thread" : "threads")
                + ", schedule \(run.parallel.schedule), \(run.parallel.microBatches) micro-batches"
                + (run.parallel.chunks > 1 ? " × \(run.parallel.chunks) chunks" : "") + "; stages "
                + session.plan.stageLayers.map { "\($0.lowerBound)-\($0.upperBound - 1)" }.joined(separator: " | "))
    }

    private func writeTrace() throws {
        session.tracer.isOn = false
        let parts = try session.communicator.gather(Array(session.tracer.json(rank: session.rank).utf8), root: 0)
        guard let parts, let store else { return }
        let events = parts.map { String(decoding: $0, as: UTF8.self) }.filter { !$0.isEmpty }.joined(separator: ",\n")
        try Data("[\n\(events)\n]\n".utf8).write(to: URL(fileURLWithPath: store.directory + "/trace.json"), options: .atomic)
    }
}
