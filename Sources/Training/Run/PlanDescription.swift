import Models
import Pipeline

/// The text of `seqtrain plan`: cut, timeline, predicted bubble and memory.
enum PlanDescription {
    static func text(
        model: Model, run: RunConfiguration, layerSeconds: [Double]?, stageCount: Int
    ) throws -> String {
        let copies = run.optimizer.kind == .sgd ? (run.optimizer.momentum > 0 ? 1 : 0) : 2
        let plan = try RunPlan(
            model: model, run: run, stageCount: stageCount, optimizerCopies: copies, layerSeconds: layerSeconds)
        let simulation = plan.simulation
        var lines = [
            "\(run.parallel.schedule), \(stageCount) stages, \(run.parallel.microBatches) micro-batches"
                + (run.parallel.chunks > 1 ? " × \(run.parallel.chunks) chunks" : "")
                + ", re-materialisation \(run.parallel.rematerialization.rawValue)",
            "",
        ]
        let work = plan.stageCosts.map { $0.forward + $0.inputGradient + $0.weightGradient }
        let mean = work.reduce(0, +) / Double(work.count)
        for (stage, layers) in plan.stageLayers.enumerated() {
            let usage = simulation.ranks[stage]
            let first = model.layers[layers.lowerBound].name
            let last = model.layers[layers.upperBound - 1].name
            var line = "stage \(stage): layers \(layers.lowerBound)-\(layers.upperBound - 1) (\(first)"
            if layers.count > 1 { line += " … \(last)" }
            line += "), load \(ModelDescription.fixed(work[stage] / mean, 2))"
            line += ", parameters with gradients and optimiser \(ModelDescription.bytes(plan.stateBytes[stage]))"
            line += ", activations \(ModelDescription.bytes(usage.peakBytes)) in \(usage.peakUnits) units"
            line += ", peak \(ModelDescription.bytes(plan.predictedPeakBytes[stage]))"
            lines.append(line)
        }
        lines += [
            "",
            "predicted bubble \(ModelDescription.fixed(100 * simulation.bubbleFraction, 1)) %"
                + " (uniform stages: \(ModelDescription.fixed(100 * idealBubble(run, stageCount), 1)) %)",
        ]
        if plan.training.shape.unitsPerStage * stageCount <= 1024 {
            lines += ["", try drawing(plan)]
        }
        return lines.joined(separator: "\n")
    }

    /// The order of the actions, drawn for equal stages whose backward takes twice the forward.
    private static func drawing(_ plan: RunPlan) throws -> String {
        let costs = CostModel.uniform(stageCount: plan.stageCount, forward: 1, inputGradient: 1, weightGradient: 1)
        return ScheduleDrawing.text(
            plan.training, try Simulator.simulate(plan.training, costs, keepsTimeline: true), column: 1)
    }

    /// `(p − 1) / (m·k + p − 1)`, fill-drain and 1F1B alike.
    private static func idealBubble(_ run: RunConfiguration, _ stageCount: Int) -> Double {
        Double(stageCount - 1) / Double(run.parallel.microBatches * run.parallel.chunks + stageCount - 1)
    }
}
