import Communication
import Pipeline

/// How the ranks of a job are shared out: `d` replicas of a pipeline of `p` ranks each. Rank `r · p + i` of the job is
/// rank `i` of pipeline `r`, so that the ranks of a pipeline, which talk most, are neighbours.
struct RankLayout {
    /// The ranks of this rank's pipeline.
    let pipeline: any Communicator
    /// The ranks with the same place in every pipeline, by replica; nil when there is one pipeline.
    let replicas: (any Communicator)?
    /// This replica's share of micro-batches and optimiser state.
    let share: ReplicaShare

    /// - Throws: `RunError` when the job's ranks do not make so many pipelines; the same on every rank.
    init(_ parallel: RunConfiguration.ParallelSection, _ communicator: any Communicator) throws {
        let size = try Self.pipelineSize(parallel, rankCount: communicator.size)
        let (replica, place) = communicator.rank.quotientAndRemainder(dividingBy: size)
        share = ReplicaShare(replica: replica, of: parallel.replicas)
        guard parallel.replicas > 1 else {
            pipeline = communicator
            replicas = nil
            return
        }
        pipeline = SubgroupCommunicator(communicator, ranks: Array(replica * size..<(replica + 1) * size))
        replicas = SubgroupCommunicator(communicator, ranks: (0..<parallel.replicas).map { $0 * size + place })
    }

    /// Ranks of one pipeline in a job of `rankCount`.
    static func pipelineSize(_ parallel: RunConfiguration.ParallelSection, rankCount: Int) throws -> Int {
        let replicas = parallel.replicas
        if let stages = parallel.stages, stages * replicas != rankCount {
            throw RunError.rankCount(
                stages: stages, replicas: replicas, ranks: rankCount,
                remedy: "start \(stages * replicas) ranks (mpirun -n \(stages * replicas), or --local-ranks "
                    + "\(stages * replicas)), or set parallel.stages=auto")
        }
        guard rankCount.isMultiple(of: replicas) else { throw RunError.replicas(replicas, ranks: rankCount) }
        return rankCount / replicas
    }
}
