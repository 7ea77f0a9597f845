import ArgumentParser
import Communication

struct SelfTest: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "selftest", abstract: "Checks every operation of the transport between the ranks of this job.")
    @Option(help: ArgumentHelp("Run this many ranks as threads of one process.", valueName: "n"))
    var localRanks: Int?

    func run() throws {
        try JobRunner.run(localRanks: localRanks) { communicator in
            try CommunicationSelfTest.run(on: communicator)
            if communicator.rank == 0 { print("selftest passed on \(communicator.size) ranks") }
        }
    }
}
