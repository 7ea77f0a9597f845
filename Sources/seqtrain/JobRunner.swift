import Communication
import Foundation
import Kernels
import Training

/// Runs one body per rank: on MPI when started by `mpirun`, as threads of this process otherwise.
/// Errors are printed once and become the exit status; no rank waits for one that failed.
enum JobRunner {
    static func run(localRanks: Int?, _ body: @escaping @Sendable (any Communicator) throws -> Void) throws {
        do {
            _ = try KernelVariant.resolve()
        } catch {
            // A mistake in SEQTRAIN_ISA or SEQTRAIN_GEMM, which every rank sees alike.
            if SeqTrain.isFirstProcess { report("seqtrain: \(error)") }
            throw JobExit(code: 2)
        }
        if MPICommunicator.launchedUnderMPI {
            if let localRanks, localRanks != 1 {
                if SeqTrain.isFirstProcess {
                    report("--local-ranks \(localRanks) cannot be combined with mpirun; drop one of them")
                }
                throw JobExit(code: 2)
            }
            try runUnderMPI(body)
        } else {
            try runInProcess(size: localRanks ?? 1, body)
        }
    }

    private static func runUnderMPI(_ body: (any Communicator) throws -> Void) throws {
        let communicator: MPICommunicator
        do {
            communicator = try MPICommunicator.start()
        } catch {
            report("\(error)")
            throw JobExit(code: 1)
        }
        var failure: RunError?
        do {
            do {
                try body(communicator)
            } catch let error as RunError {
                // Every rank holds the same error and has left the same call: one speaks, all leave in order.
                if communicator.rank == 0 { report("seqtrain: \(error)") }
                failure = error
            }
            try communicator.finish()
        } catch {
            let cause: any Error = failure ?? error
            communicator.abort(exitCode: RunError.exitCode(of: cause), because: cause)
        }
        if let failure { throw JobExit(code: failure.exitCode) }
    }

    private static func runInProcess(size: Int, _ body: @escaping @Sendable (any Communicator) throws -> Void) throws {
        do {
            _ = try InProcessWorld.run(size: size) { try body($0) }
        } catch let failure as RankFailure {
            let error = failure.underlying
            report(error is RunError || size == 1 ? "seqtrain: \(error)" : "\(failure.postMortem)")
            // Threads that hang may not survive what happens at an ordinary exit, or not let it happen.
            if !failure.strandedRanks.isEmpty { _exit(RunError.exitCode(of: error)) }
            throw JobExit(code: RunError.exitCode(of: error))
        }
    }

    static func report(_ text: String) { FileHandle.standardError.write(Data((text + "\n").utf8)) }
}
