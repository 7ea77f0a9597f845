import Communication
import Glibc
import Pipeline

/// A job under mpirun for tests of what a fault at a chosen action does; it computes nothing.
///
///     mpirun -n RANKS FaultyRank POINT FAULT RANK DEADLINE_SECONDS
@main
enum FaultyRank {
    static func main() throws {
        let arguments = CommandLine.arguments.dropFirst()
        guard arguments.count == 4, FaultyExecutor.points.contains(arguments[1]),
            let fault = Fault(rawValue: arguments[2]), let culprit = Int(arguments[3]),
            let deadline = Double(arguments[4])
        else { fatalError("FaultyRank: got \(Array(arguments)); expected POINT FAULT RANK DEADLINE_SECONDS") }
        let communicator = try MPICommunicator.start(timeout: deadline)
        do {
            let schedule = try FaultyExecutor.schedule(rankCount: communicator.size)
            let executor = FaultyExecutor(
                communicator, communicator.rank == culprit ? fault : nil, at: arguments[1])
            let interpreter = try Interpreter(schedule, communicator: communicator)
            for _ in 0..<2 { _ = try interpreter.run(executor) }
            try communicator.finish()
        } catch {
            communicator.abort(exitCode: 1, because: error)
        }
    }
}
