import Foundation
import TestSupport
import Testing

/// `seqtrain schedule` as a user meets it.
@Suite struct ScheduleCommandTests {
    private func run(_ arguments: [String]) throws -> CommandResult { try Binary.run(["schedule"] + arguments) }

    @Test func aWrittenScheduleIsProvedTimedAndDrawn() throws {
        let space = try Workspace()
        let written = try run(["write", "1f1b", "--ranks", "2", "--micro-batches", "3", "--chunks", "2"])
        try space.write("a.sched", written.output)
        let file = space.path + "/a.sched"
        #expect(
            try run(["verify", file]).output
                == "legal: 1f1b, training, 2 ranks, 2 stages, 3 micro-batches, 2 chunks, 24 actions\n")
        let simulated = try run(["simulate", file, "--forward", "2", "--weight-gradient", "3"])
        // (m k + p - 1) units of 2 + 1 + 3 seconds.
        #expect(simulated.output.hasPrefix("makespan 42 s, bubble 14.29 %\nrank 0: bubble 14.29 %, at most 3 units"))
        let slower = try run(["simulate", file, "--latency", "1", "--bandwidth", "8", "--bytes", "4"])
        #expect(slower.output.hasPrefix("makespan 30 s, bubble"))
        #expect(try run(["draw", file]).output.hasPrefix("rank 0  F0.0 F0.1 F1.0"))
        #expect(try run(["draw", file, "--svg", space.path + "/a.svg"]).status == 0)
        #expect(String(decoding: try space.bytes("a.svg"), as: UTF8.self).contains("<title>F s0 m0 c0: 0 s to 1 s"))
        let lowered = try run(["write", "zb_h1", "--ranks", "2", "--micro-batches", "2", "--lowered"])
        try space.write("b.sched", lowered.output)
        #expect(try run(["verify", space.path + "/b.sched"]).status == 0)
    }

    @Test func faultsAreNamedWithTheirLine() throws {
        let space = try Workspace()
        let file = space.path + "/bad.sched"
        try space.write(
            "bad.sched", "schedule bad\nmicro_batches 2\nplacement 0\nrank 0: F s0 m0; B s0 m0\n  F s0 m0\n")
        let illegal = try run(["verify", file])
        #expect(illegal.status == 1 && illegal.output.isEmpty)
        #expect(illegal.errorOutput == "\(file):5: rank 0, position 2, 'F s0 m0 c0': done before, on the same unit\n")
        #expect(try run(["simulate", file]).status == 1)
        try space.write("bad.sched", "schedule bad\nmicro_batches two\nplacement 0\nrank 0:\n")
        let malformed = try run(["draw", file])
        #expect(malformed.status == 2)
        #expect(malformed.errorOutput.contains("bad.sched:2: 'micro_batches' needs whole numbers of at least 1"))
        #expect(try run(["verify", space.path + "/none.sched"]).status == 2)
        let unknown = try run(["write", "2f2b", "--ranks", "2", "--micro-batches", "1"])
        #expect(unknown.status == 2 && unknown.errorOutput.contains("unknown schedule '2f2b'; expected one of gpipe"))
        #expect(try run(["write", "1f1b", "--ranks", "0", "--micro-batches", "1"]).status == 2)
    }
}
