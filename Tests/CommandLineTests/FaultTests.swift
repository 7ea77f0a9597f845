import FaultyRank
import Foundation
import Glibc
import TestSupport
import Testing

/// A rank of a real job is stopped or killed at some moment of its training: no process stays, and the culprit is named.
@Suite(.enabled(if: Binary.mpirun != nil)) struct FaultTests {
    static let rankCount = 3
    static let deadline = 2.0

    /// Every kind of action with one fault on one rank, both in turn. All faults on all ranks are tested in process.
    @Test func aFaultAtEachAction() throws {
        let cases = FaultyExecutor.points.enumerated().map { index, point in
            (point: point, fault: Fault.allCases[index % 3], rank: (index + index / 3) % Self.rankCount)
        }
        let start = ContinuousClock.now
        let jobs = try cases.map {
            try Binary.start(
                [$0.point, $0.fault.rawValue, "\($0.rank)", "\(Self.deadline)"], ranks: Self.rankCount,
                launcher: ["--enable-recovery"], path: Binary.built("FaultyRank"))
        }
        for ((point, fault, rank), job) in zip(cases, jobs) {
            let text = job.wait(timeout: 30).errorOutput
            let ending = fault == .error ? "failed as reported above" : "did not report within 1.0 s"
            let words = Comment(rawValue: "\(fault) of rank \(rank) at \(point): \(text)")
            #expect(text.contains("cause: rank \(rank) \(ending)") && Self.count("cause: ", text) == 1, words)
            for other in 0..<Self.rankCount where other != rank || fault == .error {
                #expect(Self.count("[rank \(other)/\(Self.rankCount)", text) == 1, words)
            }
        }
        #expect(ContinuousClock.now - start < .seconds(30))
    }

    private struct Ending {
        var result: CommandResult
        /// Since the signal.
        var seconds: Double
        var survivors: Int
    }

    /// Trains, sends `signal` to one rank after the first step, and waits for the end: one job for each of `ranks`, all
    /// at the same time, as they mostly wait.
    private func endings(
        of signal: Int32, ranks: Range<Int> = 0..<rankCount, deadline: Double = deadline, launcher: [String] = []
    ) throws -> [Ending] {
        let space = try Workspace()
        let arguments = ["train.steps=1000000", "eval.every=0", "parallel.deadline_seconds=\(deadline)"]
        let jobs = try ranks.map { _ in
            try Binary.start([space.config] + arguments, ranks: Self.rankCount, launcher: launcher)
        }
        let victims = try zip(ranks, jobs).map { rank, job in
            for _ in 0..<1500 where !job.errorOutputSoFar.contains(" 1/1000000") { usleep(20_000) }
            let processes = (0..<Self.rankCount).compactMap(job.process(ofRank:))
            try #require(processes.count == Self.rankCount, "\(job.errorOutputSoFar)")
            // Not always at the same action.
            usleep(useconds_t.random(in: 0..<50_000))
            kill(processes[rank], signal)
            return (processes: processes, time: ContinuousClock.now)
        }
        return zip(jobs, victims).map { job, victim in
            let result = job.wait(timeout: 30)
            let seconds = (ContinuousClock.now - victim.time) / .seconds(1)
            // The launcher does not wait for the last of them.
            for _ in 0..<100 where victim.processes.contains(where: Self.isAlive) { usleep(20_000) }
            return Ending(result: result, seconds: seconds, survivors: victim.processes.count(where: Self.isAlive))
        }
    }

    private static func count(_ part: String, _ text: String) -> Int { text.components(separatedBy: part).count - 1 }

    private static func isAlive(_ process: pid_t) -> Bool {
        let name = try? String(contentsOfFile: "/proc/\(process)/comm", encoding: .utf8)
        return name == "seqtrain\n"
    }

    @Test func aStoppedRank() throws {
        for (rank, ending) in try endings(of: SIGSTOP).enumerated() {
            let text = ending.result.errorOutput
            #expect(ending.result.status == 1 && ending.survivors == 0, "\(text)")
            #expect(text.contains("cause: rank \(rank) did not report within 1.0 s"), "\(text)")
            #expect(Self.count("cause: ", text) == 1, "\(text)")
            for other in 0..<Self.rankCount where other != rank {
                #expect(Self.count("[rank \(other)/\(Self.rankCount)", text) == 1, "\(text)")
            }
            #expect(ending.seconds > Self.deadline && ending.seconds < Self.deadline + 10)
        }
    }

    /// A launcher that watches its processes ends the job by itself.
    @Test func aKilledRank() throws {
        for (rank, ending) in try endings(of: SIGKILL, deadline: 60).enumerated() {
            let text = ending.result.errorOutput
            #expect(ending.result.status == 128 + SIGKILL && ending.survivors == 0, "\(text)")
            #expect(text.contains("process rank \(rank) "), "\(text)")
            #expect(ending.seconds < 10)
        }
    }

    /// With one that does not, the others' deadline does.
    @Test func aKilledRankThatTheLauncherDoesNotMiss() throws {
        let ending = try endings(of: SIGKILL, ranks: 0..<1, launcher: ["--enable-recovery"])[0]
        let text = ending.result.errorOutput
        #expect(text.contains("cause: rank 0 did not report within 1.0 s") && ending.survivors == 0, "\(text)")
        #expect(ending.seconds > Self.deadline && ending.seconds < Self.deadline + 10)
    }
}
