import Autograd
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
        public var validation: Session.Evaluation?
        public var checkpoint: String?
        public var samples: [String] = []
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
                try initialize()
            }
            if isReporter { metrics = try MetricsLog(path: store.directory + "/metrics.jsonl", lastStep: step) }
        } else {
            try initialize()
        }
        reportPlan()

        var outcome = Outcome(steps: step, trainingLoss: .nan)
        var window = Window()
        let total = run.train.steps
        StopSignal.shared.install()
        while step < total {
            step += 1
            let rate = run.learningRate.rate(step: step)
            let isLast = step == total
            let validates = run.eval.every > 0 && (step % run.eval.every == 0 || isLast)
            let reports = step % run.logEvery == 0 || isLast || validates || step == 1
            let batch = data.trainingBatch(step: step)
            if step == 1, run.parallel.traceSteps > 0 {
                try session.communicator.barrier()
                session.recorder = TraceRecorder(capacity: 1 << 20)
            }
            let result = try session.trainStep(
                batch, step: step, rate: rate, stopRequested: StopSignal.shared.isRequested,
                lastCheckpoint: lastCheckpoint)
            if step == run.parallel.traceSteps { try writeTrace() }
            window.add(result)
            outcome.trainingLoss = result.loss
            if reports { window.bubble = try Self.bubble(window.timing, session.communicator) }

            if validates {
                outcome.validation = try session.evaluate(validation(), isStream: data.isStream)
            }
            if isReporter {
                try show(result, step, rate, window, validates ? outcome.validation : nil, isMilestone: reports)
            }
            if reports { window = Window() }

            let saves = isLast || result.stopRequested || (run.checkpoint.every > 0 && step % run.checkpoint.every == 0)
            if saves, let store { lastCheckpoint = try store.save(step: step) }
            if result.stopRequested, !isLast { throw RunError.preempted(step: step, checkpoint: lastCheckpoint) }
        }
        outcome.steps = step
        outcome.checkpoint = lastCheckpoint
        if let request = run.generate {
            outcome.samples = try TextGenerator(session: session, data: data).generate(request).texts
        }
        return outcome
    }

    private func initialize() throws {
        if let summary = try session.initializeParameters() { report(summary) }
    }

    /// Sums between two reports.
    private struct Window {
        var seconds = 0.0, tokens = 0, steps = 0
        /// Of this rank.
        var timing = StepTiming()
        /// Share of the time that ranks waited, over all ranks.
        var bubble = 0.0

        mutating func add(_ result: Session.StepResult) {
            seconds += result.seconds
            tokens += result.tokenCount
            steps += 1
            timing.busy += result.timing.busy
            timing.span += result.timing.span
        }
    }

    private static func bubble(_ timing: StepTiming, _ communicator: any Communicator) throws -> Double {
        let busy = try communicator.allGather(timing.busy)
        let span = try communicator.maximum(timing.span)
        return span > 0 ? 1 - busy.reduce(0, +) / (span * Double(busy.count)) : 0
    }

    private func show(
        _ result: Session.StepResult, _ step: Int, _ rate: Double, _ window: Window, _ validation: Session.Evaluation?,
        isMilestone: Bool
    ) throws {
        let tokensPerSecond = Double(window.tokens) / window.seconds
        let bubble = window.bubble
        display.show(
            ProgressReport(
                step: step, stepCount: run.train.steps, loss: result.loss, auxiliary: result.auxiliary,
                validationLoss: validation?.meanLoss,
                validationAccuracy: validation?.accuracy,
                learningRate: rate, gradientNorm: result.gradientNorm, tokensPerSecond: tokensPerSecond,
                bubble: bubble, secondsLeft: Double(run.train.steps - step) * window.seconds / Double(window.steps)),
            isMilestone: isMilestone)
        var fields: [JSON.Member] = [
            .init("step", .int(step)), .init("loss", .double(result.loss)), .init("learning_rate", .double(rate)),
            .init("gradient_norm", .double(result.gradientNorm)), .init("tokens", .int(result.tokenCount)),
            .init("seconds", .double(result.seconds)),
        ]
        for (term, value) in result.auxiliary.sorted(by: { $0.key < $1.key }) {
            fields.append(.init("auxiliary.\(term)", .double(value)))
        }
        if isMilestone { fields.append(.init("bubble", .double(bubble))) }
        if let validation {
            fields.append(.init("validation_loss", .double(validation.meanLoss)))
            fields.append(.init("validation_accuracy", .double(validation.accuracy)))
            fields.append(.init("validation_sequence_accuracy", .double(validation.sequenceAccuracy)))
            fields += validation.statistics.map { .init("\($0.layer).\($0.term)", .double($0.value)) }
        }
        try metrics?.append(fields)
    }

    private func validation() throws -> some Sequence<TokenBatch> {
        try data.evaluationBatches(split: .valid, limit: run.eval.batches)
    }

    private func report(_ text: String) { if isReporter { display.message(text) } }

    private func reportPlan() {
        let (parallel, threads) = (run.parallel, session.context.threads.threadCount)
        func counted(_ count: Int, _ noun: String) -> String { "\(count) \(noun)" + (count == 1 ? "" : "s") }
        let stages = session.plan.stageLayers.map { "\($0.lowerBound)-\($0.upperBound - 1)" }
        report(
            "\(session.model.layerCount) layers, \(session.model.registry.elementCount) parameters; "
                + "\(counted(session.communicator.size, "rank")) × \(counted(threads, "thread"))"
                + (parallel.replicas > 1 ? ", \(parallel.replicas) replicas" : "")
                + ", schedule \(parallel.schedule), \(parallel.microBatches) micro-batches"
                + (parallel.chunks > 1 ? " × \(parallel.chunks) chunks" : "")
                + "; stages \(stages.joined(separator: " | "))")
    }

    /// Gathers what the ranks recorded into `trace.json`. Collective.
    private func writeTrace() throws {
        let recorder = session.recorder!
        session.recorder = nil
        guard let timelines = try session.gatherTimelines(recorder), let store else { return }
        let layout = session.plan.layout
        let trace = Trace.chromeJSON(timelines, shape: session.plan.training.shape)
        try FileSystem.replace(store.directory + "/trace.json", with: Array(trace.utf8))
        let picture = TimelinePicture.svg(
            [
                .init(title: "predicted", timelines: layout.simulation.timeline),
                .init(title: "measured", timelines: timelines.map(Self.lastStep)),
            ],
            title: "step \(run.parallel.traceSteps), \(run.parallel.schedule)")
        try FileSystem.replace(store.directory + "/timeline.svg", with: Array(picture.utf8))
        report(ActionComparison.text(ActionComparison.table(timelines, layout.costs)))
    }

    /// The actions after the last but one STEP.
    private static func lastStep(_ timeline: [TimedAction]) -> [TimedAction] {
        let steps = timeline.indices.filter { timeline[$0].action.kind == .step }
        return Array(timeline[(steps.dropLast().last.map { $0 + 1 } ?? 0)...])
    }
}
