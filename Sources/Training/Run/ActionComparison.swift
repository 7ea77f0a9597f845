import Communication
import Pipeline

/// Predicted against measured time of one kind of action in one stage.
struct ActionComparison: Sendable {
    let stage: Int
    let kind: Action.Kind
    let count: Int
    /// Mean seconds of one action.
    let predicted, measured: Double

    /// Every kind of compute action in every stage, stages ascending.
    ///
    /// - Parameter timelines: per rank, measured actions of whole steps.
    static func table(_ timelines: [[TimedAction]], _ costs: CostModel) -> [ActionComparison] {
        var sums: [Int: [Action.Kind: (count: Int, seconds: Double)]] = [:]
        for timed in timelines.joined() where timed.action.kind.isCompute {
            let old = sums[timed.action.stage]?[timed.action.kind] ?? (0, 0)
            sums[timed.action.stage, default: [:]][timed.action.kind] = (
                old.count + 1, old.seconds + timed.end - timed.start
            )
        }
        return costs.stages.indices.flatMap { stage in
            Action.Kind.allCases.compactMap { kind in
                guard let (count, seconds) = sums[stage]?[kind] else { return nil }
                return ActionComparison(
                    stage: stage, kind: kind, count: count,
                    predicted: costs.stages[stage].seconds(kind), measured: seconds / Double(count))
            }
        }
    }

    /// The stages' costs as measured, where they were.
    static func measured(_ table: [ActionComparison], _ costs: CostModel) -> CostModel {
        var costs = costs
        for row in table {
            switch row.kind {
            case .forward: costs.stages[row.stage].forward = row.measured
            case .inputGradient: costs.stages[row.stage].inputGradient = row.measured
            case .weightGradient: costs.stages[row.stage].weightGradient = row.measured
            case .recompute: costs.stages[row.stage].recompute = row.measured
            case .backward:
                costs.stages[row.stage].inputGradient = row.measured / 2
                costs.stages[row.stage].weightGradient = row.measured / 2
            default: break
            }
        }
        return costs
    }

    /// One line per row.
    static func text(_ table: [ActionComparison]) -> String {
        table.map {
            "stage \($0.stage) \($0.kind.text): predicted \(ModelDescription.fixed(1e3 * $0.predicted, 3)) ms, measured "
                + "\(ModelDescription.fixed(1e3 * $0.measured, 3)) ms (\($0.count) actions)"
        }.joined(separator: "\n")
    }

    var json: JSON {
        .object([
            .init("stage", .int(stage)), .init("action", .string(kind.text)), .init("count", .int(count)),
            .init("predicted_seconds", .double(predicted)), .init("measured_seconds", .double(measured)),
        ])
    }
}

extension StageCost {
    /// Of a compute action.
    fileprivate func seconds(_ kind: Action.Kind) -> Double {
        switch kind {
        case .forward: forward
        case .inputGradient: inputGradient
        case .weightGradient: weightGradient
        case .backward: inputGradient + weightGradient
        default: recompute
        }
    }
}

extension Session {
    /// What the ranks of every pipeline recorded, by rank of the job, on rank 0; nil elsewhere. Collective.
    func gatherTimelines(_ recorder: TraceRecorder) throws -> [[TimedAction]]? {
        let lines = recorder.actions.map { "\($0.start) \($0.end) \($0.action)" }
        let parts = try communicator.gather(Array(lines.joined(separator: "\n").utf8), root: 0)
        return parts?.map { part in
            String(decoding: part, as: UTF8.self).split(separator: "\n").compactMap { line -> TimedAction? in
                let words = line.split(separator: " ", maxSplits: 2)
                guard words.count == 3, let action = Action(words[2]) else { return nil }
                return TimedAction(action: action, start: Double(words[0])!, end: Double(words[1])!)
            }
        }
    }
}
