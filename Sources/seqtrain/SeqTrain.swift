import ArgumentParser
import Communication
import Foundation
import Models
import Training

@main
struct SeqTrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "seqtrain",
        abstract: "Trains recurrent, recursive-depth and hybrid sequence models in a pipeline of MPI ranks.",
        discussion: """
            seqtrain CONFIG [key.path=value ...]      trains (the default subcommand)
            mpirun -n 4 seqtrain CONFIG               the same on four ranks: the same numbers
            seqtrain CONFIG --local-ranks 4           four ranks as threads of one process
            """,
        version: "0.1.0",
        subcommands: [
            Train.self, Evaluate.self, Generate.self, Describe.self, Plan.self, Bench.self, ProbeCommand.self,
            DepthSearchCommand.self, Distill.self,
            ScheduleCommand.self, SelfTest.self,
        ],
        defaultSubcommand: Train.self)

    static func main() {
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch let exit as JobExit {
            Foundation.exit(exit.code)
        } catch {
            // Usage errors: the parser knows the words; the status is ours.
            let code = exitCode(for: error)
            if code == .success || code == .failure { Self.exit(withError: error) }
            if isFirstProcess { FileHandle.standardError.write(Data((fullMessage(for: error) + "\n").utf8)) }
            Foundation.exit(2)
        }
    }

    /// Whether this process is the one that speaks before ranks can talk to each other.
    static var isFirstProcess: Bool {
        let environment = ProcessInfo.processInfo.environment
        guard MPICommunicator.launchedUnderMPI else { return true }
        return (environment["OMPI_COMM_WORLD_RANK"] ?? environment["PMIX_RANK"] ?? environment["PMI_RANK"] ?? "0")
            == "0"
    }
}

/// Ends the process with a status after everything has been said.
struct JobExit: Error {
    let code: Int32
}
