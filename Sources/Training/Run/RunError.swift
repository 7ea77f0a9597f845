import Models
import Pipeline

/// What ends a run, with the exit status that the command line promises: 1 the run failed, 2 bad
/// usage or configuration, 75 stopped early with a checkpoint.
///
/// Once a job is open every rank throws the same `RunError` from the same call (`Collective.agree` sees to
/// that), so the job can end in order instead of being torn down.
public enum RunError: Error, Sendable {
    case nonFinite(step: Int, loss: Double, firstParameter: String?, checkpoint: String?)
    case rankCount(stages: Int, replicas: Int = 1, ranks: Int, remedy: String)
    case replicas(Int, ranks: Int)
    case stagesExceedLayers(stages: Int, layers: Int)
    case unchunkable(layer: String, reason: String, chunks: Int)
    case sequenceTooLong(time: Int, maximum: Int)
    case chunksExceedTime(chunks: Int, time: Int)
    case checkpoint(path: String, message: String)
    case scheduleFile(path: String, message: String)
    case memory(limit: Int, need: Int, cut: [Int])
    case usage(String)
    case otherRank(rank: Int, rankCount: Int, message: String, exitCode: Int32)
    case preempted(step: Int, checkpoint: String?)

    public var exitCode: Int32 {
        switch self {
        case .nonFinite, .checkpoint: 1
        case .rankCount, .replicas, .stagesExceedLayers, .unchunkable, .sequenceTooLong, .chunksExceedTime, .memory,
            .scheduleFile,
            .usage:
            2
        case .otherRank(_, _, _, let code): code
        case .preempted: 75
        }
    }

    /// The exit status that belongs to any error.
    public static func exitCode(of error: any Error) -> Int32 {
        switch error {
        case let error as RunError: error.exitCode
        case is ConfigurationError, is ScheduleError, is PartitionError: 2
        default: 1
        }
    }
}

extension RunError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .nonFinite(let step, let loss, let parameter, let checkpoint):
            "step \(step): the loss is \(loss)"
                + (parameter.map { " and the first non-finite gradient is that of '\($0)'" } ?? "")
                + "; nothing was updated. "
                + (checkpoint.map { "The last complete checkpoint is \($0). " } ?? "No checkpoint was written yet. ")
                + "Lower learning_rate.peak, lengthen warmup_steps, or set optimizer.clip_norm"
        case .rankCount(let stages, let replicas, let ranks, let remedy):
            "the plan has \(stages) stages" + (replicas > 1 ? " × \(replicas) replicas" : "")
                + " but the job has \(ranks) ranks; \(remedy)"
        case .replicas(let replicas, let ranks):
            "parallel.replicas is \(replicas), but \(ranks) \(ranks == 1 ? "rank does" : "ranks do") not make "
                + "\(replicas) equal pipelines; start a multiple of \(replicas) ranks (\(replicas) × the number of stages), "
                + "or set parallel.replicas to a divisor of \(ranks)"
        case .stagesExceedLayers(let stages, let layers):
            "\(stages) stages cannot be cut from \(layers) layers (embedding and head included); use at most \(layers) ranks, or more layers"
        case .unchunkable(let layer, let reason, let chunks):
            "parallel.chunks is \(chunks), but layer '\(layer)' cannot be cut in time: \(reason); set parallel.chunks=1"
        case .sequenceTooLong(let time, let maximum):
            "train.sequence_length \(time) exceeds model.max_positions \(maximum); raise max_positions or shorten the sequences"
        case .chunksExceedTime(let chunks, let time):
            "parallel.chunks \(chunks) exceeds train.sequence_length \(time); use at most \(time) chunks"
        case .checkpoint(let path, let message): "checkpoint \(path): \(message)"
        case .scheduleFile(let path, let message): "schedule \(path) \(message)"
        case .memory(let limit, let need, let cut):
            "parallel.memory_limit \(ModelDescription.bytes(limit)) per rank is too little for \(cut.count) "
                + (cut.count == 1 ? "stage" : "stages")
                + ": the fullest needs \(ModelDescription.bytes(need)) (layers \(cut)); "
                + "use more ranks, parallel.rematerialize=always, or more micro-batches"
        case .usage(let message): message
        case .otherRank(let rank, let count, let message, _): count > 1 ? "[rank \(rank)/\(count)] \(message)" : message
        case .preempted(let step, let checkpoint):
            "stopped by a signal after step \(step)"
                + (checkpoint.map { "; \($0) continues the run" }
                    ?? "; no checkpoint.directory is set, nothing was saved")
        }
    }
}
