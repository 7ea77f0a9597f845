import Models
import Pipeline

/// The text of `seqtrain plan`: cut, timeline, predicted bubble and memory.
enum PlanDescription {
    static func text(
        model: Model, run: RunConfiguration, timings: [LayerTiming]?, rankCount: Int
    ) throws -> String {
        let plan = try RunPlan(
            model: model, run: run, rankCount: rankCount, optimizerCopies: run.optimizer.stateNames.count,
            timings: timings)
        let simulation = plan.layout.simulation
        let equal = try uniform(plan)
        let replicas = run.parallel.replicas > 1 ? " in each of \(run.parallel.replicas) replicas" : ""
        var lines = [
            "\(run.parallel.schedule), \(counted(rankCount, "rank"))\(replicas), "
                + "\(counted(plan.stageCount, "stage")), \(plan.layout.schedule.shape.microBatchCount) micro-batches"
                + (run.parallel.chunks > 1 ? " × \(run.parallel.chunks) chunks" : "")
                + ", re-materialisation \(run.parallel.rematerialization.rawValue)",
            "",
        ]
        let work = plan.layout.costs.stages.map { $0.forward + $0.inputGradient + $0.weightGradient }
        let mean = work.reduce(0, +) / Double(work.count)
        for (stage, layers) in plan.stageLayers.enumerated() {
            let first = model.layers[layers.lowerBound].name
            let last = model.layers[layers.upperBound - 1].name
            lines.append(
                "stage \(stage) on rank \(plan.placement.ranks[stage]): layers "
                    + "\(layers.lowerBound)-\(layers.upperBound - 1) (\(first)"
                    + (layers.count > 1 ? " … \(last)" : "")
                    + "), load \(ModelDescription.fixed(work[stage] / mean, 2))")
        }
        lines.append("")
        for (rank, usage) in simulation.ranks.enumerated() {
            lines.append(
                "rank \(rank): parameters with gradients and optimiser \(ModelDescription.bytes(plan.layout.stateBytes[rank]))"
                    + ", activations \(ModelDescription.bytes(usage.peakBytes)) in \(counted(usage.peakUnits, "unit"))"
                    + ", peak \(ModelDescription.bytes(plan.layout.predictedPeakBytes[rank]))"
                    + ", bubble \(ModelDescription.fixed(100 * simulation.bubbleFraction(rank: rank), 1)) %")
        }
        lines += [
            "",
            "predicted bubble \(ModelDescription.fixed(100 * simulation.bubbleFraction, 1)) %"
                + " (uniform stages: \(ModelDescription.fixed(100 * equal.bubbleFraction, 1)) %)",
        ]
        if plan.training.shape.unitCount <= 1024 {
            lines += ["", ScheduleDrawing.text(plan.layout.schedule, equal, column: 1)]
        }
        return lines.joined(separator: "\n")
    }

    /// The same order for equal stages whose backward takes twice the forward, which the drawing shows.
    private static func uniform(_ plan: RunPlan) throws -> Simulation {
        let costs = CostModel.uniform(stageCount: plan.stageCount, forward: 1, inputGradient: 1, weightGradient: 1)
        return try Simulator.simulate(plan.layout.schedule, costs, keepsTimeline: true)
    }

    private static func counted(_ count: Int, _ noun: String) -> String { "\(count) \(noun)" + (count == 1 ? "" : "s") }

    /// The best layouts of a search, as a table.
    static func text(_ choices: [Planner.Choice], rankCount: Int) -> String {
        let rows =
            [["", "step", "bubble", "peak/rank", "stages", "layout"]]
            + choices.enumerated().map { place, choice in
                [
                    "\(place + 1)", ModelDescription.fixed(1e3 * choice.stepSeconds, 1) + " ms",
                    ModelDescription.fixed(100 * choice.bubble, 1) + " %", ModelDescription.bytes(choice.peakBytes),
                    "\(choice.layerCounts.count)", choice.summary,
                ]
            }
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max()! }
        let lines = rows.map { row in
            zip(row, widths.dropLast() + [0])
                .map { $0 + String(repeating: " ", count: max(0, $1 - $0.count)) }.joined(separator: "  ")
        }
        return "best layouts on \(counted(rankCount, "rank")), measured and simulated\n" + lines.joined(separator: "\n")
    }
}

extension Planner.Choice {
    /// The keys on one line.
    var summary: String {
        keys.filter { $0.key != "partition" }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
    }
}
