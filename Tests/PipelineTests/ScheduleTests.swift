import Foundation
import Pipeline
import Testing

@Suite struct ScheduleTests {
    @Test func textIsReadBack() throws {
        for name in ScheduleCatalog.names {
            let schedule = try ScheduleCatalog.training(
                name, ScheduleRequest(rankCount: 3, microBatchCount: 4, chunkCount: 2, rematerialization: .exceptLast))
            #expect(try Schedule(text: schedule.text) == schedule)
            let lowered = try Lowering.lower(schedule)
            #expect(try Schedule(text: lowered.text) == lowered)
        }
        let evaluation = ScheduleCatalog.evaluation(placement: .contiguous(stageCount: 2), microBatchCount: 3)
        #expect(try Schedule(text: evaluation.text) == evaluation)
    }

    @Test func handWrittenFileIsReadAndProved() throws {
        let schedule = try Schedule(
            text: """
                # two stages, split gradients
                schedule mine
                micro_batches 2
                placement 0 1
                rank 1: F s1 m0; I s1 m0; F s1 m1; I s1 m1; W s1 m0; W s1 m1   # W late
                rank 0: F s0 m0; F s0 m1; B s0 m0; I s0 m1; W s0 m1;
                """)
        #expect(schedule.shape == ScheduleShape(stageCount: 2, microBatchCount: 2))
        #expect(schedule.ranks[1].count == 6)
        try Verifier.verify(schedule)
        try Verifier.verify(Lowering.lower(schedule))
    }

    @Test func skipsAndForwardOnlyStagesAreReadBack() throws {
        var schedule = try ScheduleCatalog.training("1f1b", ScheduleRequest(rankCount: 4, microBatchCount: 2))
        schedule.shape.skips = [SkipEdge(fromStage: 0, toStage: 3), SkipEdge(fromStage: 1, toStage: 2)]
        #expect(schedule.text.contains("\nskips 0-3 1-2\n"))
        #expect(try Schedule(text: schedule.text) == schedule)
        schedule = try ScheduleCatalog.training(
            "1f1b", ScheduleRequest(rankCount: 4, microBatchCount: 2, forwardOnly: [2, 1]))
        #expect(schedule.text.contains("\nforward_only 1 2\n"))
        #expect(try Schedule(text: schedule.text) == schedule)
        let lowered = try Lowering.lower(schedule)
        #expect(try Schedule(text: lowered.text) == lowered)
    }

    @Test(arguments: [
        (
            "schedule a\nmicro_batches 1\nplacement 0 1 1\nskips 0-1 2-1",
            "schedule line 4: got skip '2-1'; expected two stages below 3, as in '0-2'"
        ),
        ("schedule a\nmicro_batches 1\nplacement 0 1\nskips 0-2", "schedule line 4: got skip '0-2'; expected"),
        ("schedule a\nmicro_batches 1\nplacement 0 1\nskips", "schedule line 4: got 0 skips; expected 1 to 65535"),
        (
            "schedule a\nmicro_batches 1\nplacement 0 1\nforward_only 2",
            "schedule line 4: 'forward_only' needs stages below 2"
        ),
        ("schedule a\nplacement 0\nrank 0: F s0 m0", "schedule line 3: 'micro_batches' is missing"),
        ("schedule a\nmicro_batches 1\nplacement 0 2\nrank 0:", "schedule line 3: 'placement' needs the rank"),
        (
            "schedule a\nmicro_batches 0\nplacement 0",
            "schedule line 2: 'micro_batches' needs whole numbers of at least 1"
        ),
        (
            "schedule a\nmicro_batches 1\nplacement 0\nlowered yes\nrank 0:",
            "schedule line 4: 'lowered' may be followed by 'replicas' only"
        ),
        ("schedule a\nmicro_batch 1", "schedule line 2: unknown word 'micro_batch'"),
        ("schedule a\nmicro_batches 1\nplacement 0\nrank 0: F s0", "schedule line 4: got 'F s0'; expected an action"),
        ("schedule a\nmicro_batches 1\nplacement 0 1\nrank 0: F s0 m0", "expected 0..<2"),
        ("schedule a\nmicro_batches 1\nplacement 0\nrank 0:\nrank 0:", "schedule line 5: rank 0 is given twice"),
        ("micro_batches 1\nplacement 0\nrank 0:", "'schedule <name>' is missing"),
        ("schedule a\npurpose fun\nmicro_batches 1\nplacement 0\nrank 0:", "schedule line 2: 'purpose' needs"),
        ("schedule a\nmicro_batches 1\nplacement 0\npeak 1 2\nrank 0:", "schedule line 4: 'peak' needs 1 numbers"),
    ])
    func badFilesNameTheLine(text: String, message: String) {
        #expect {
            try Schedule(text: text)
        } throws: {
            "\($0)".contains(message)
        }
    }

    @Test func aListMayGoOnInIndentedLines() throws {
        let text = """
            rank 0: F s0 m0
            \tB s0 m0; F s0 m1   # two more

                B s0 m1
            schedule long
            micro_batches 2
            placement 0
            """
        let schedule = try Schedule(text: text)
        #expect(schedule.ranks[0].map(\.description) == ["F s0 m0 c0", "B s0 m0 c0", "F s0 m1 c0", "B s0 m1 c0"])
        #expect(
            throws: ScheduleError.malformed(
                line: 2, reason: "got 'X s0'; expected an action such as 'F s0 m1 c0' or 'STEP'")
        ) {
            try Schedule(text: "rank 0: F s0 m0\n  X s0")
        }
        #expect {
            try Schedule(text: "rank 0: F s0 m0\nB s0 m0")
        } throws: {
            "\($0)".hasPrefix("schedule line 2: unknown word 'B'")
        }
    }

    @Test func faultsNameFileAndLine() throws {
        let text = """
            schedule faulty
            micro_batches 2
            placement 0 1
            rank 0: F s0 m0; F s0 m1
                B s0 m0
                B s0 m0
            rank 1: F s1 m0; B s1 m0; F s1 m1; B s1 m1
            """
        let messages = try #require(throws: ScheduleError.self) {
            try ScheduleFile(path: "a.sched", text: text).verify()
        }
        #expect("\(messages)" == "a.sched:6: rank 0, position 3, 'B s0 m0 c0': done before, on the same unit")
        let missing = text.replacing("    B s0 m0\n    B s0 m0", with: "    B s0 m0")
        let absence = try #require(throws: ScheduleError.self) {
            try ScheduleFile(path: "a.sched", text: missing).verify()
        }
        #expect("\(absence)".hasPrefix("a.sched:4: rank 0, absent, 'I s0 m1 c0': the unit has no input gradient"))
        #expect(
            throws: ScheduleError.file(messages: [
                "b.sched:1: unknown word 'x'; expected schedule, purpose, micro_batches, chunks, placement, skips, forward_only, peak, lowered or 'rank n:'"
            ])
        ) {
            try ScheduleFile(path: "b.sched", text: "x 1")
        }
    }

    /// Every example is legal, with and without communication, and takes the time that its comment says.
    @Test(arguments: [
        ("one_forward_one_backward", 18.0), ("ring_with_home", 14), ("split_backward", 14), ("v_shape_with_skip", 17),
    ])
    func examplesAreLegal(name: String, makespan: Double) throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "configs/schedules")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(
            names == [
                "one_forward_one_backward.sched", "ring_with_home.sched", "split_backward.sched",
                "v_shape_with_skip.sched",
            ])
        let text = try String(contentsOf: folder.appending(path: name + ".sched"), encoding: .utf8)
        let file = try ScheduleFile(path: name, text: text)
        try file.verify()
        try Verifier.verify(Lowering.lower(file.schedule))
        let costs = CostModel.uniform(
            stageCount: file.schedule.shape.stageCount, forward: 1, inputGradient: 1, weightGradient: 1)
        #expect(try Simulator.simulate(file.schedule, costs).makespan == makespan)
        #expect(text.contains("\(Int(makespan)) units of time"))
    }

    @Test func unknownNameListsTheKnownOnes() {
        #expect {
            try ScheduleCatalog.training("2f2b", ScheduleRequest(rankCount: 1, microBatchCount: 1))
        } throws: {
            "\($0)" == "unknown schedule '2f2b'; expected one of " + ScheduleCatalog.names.joined(separator: ", ")
        }
    }

    @Test func unitsAreNumberedDensely() {
        let shape = ScheduleShape(stageCount: 3, microBatchCount: 2, chunkCount: 2)
        for index in 0..<shape.unitCount {
            let unit = shape.unit(at: index)
            #expect(shape.index(of: unit) == index)
            if let next = shape.downstream(of: unit) { #expect(shape.upstream(of: next) == unit) }
        }
        #expect(shape.downstream(of: UnitOfWork(stage: 2, microBatch: 1)) == nil)
    }

    @Test func skipsJoinTheirStagesOnly() {
        let shape = ScheduleShape(
            stageCount: 4, microBatchCount: 1, skips: [SkipEdge(fromStage: 0, toStage: 2)])
        let units = (0..<4).map { UnitOfWork(stage: $0, microBatch: 0) }
        #expect(units.map { shape.downstream(of: $0, edge: 1) } == [units[2], nil, nil, nil])
        #expect(units.map { shape.upstream(of: $0, edge: 1) } == [nil, nil, units[0], nil])
        #expect(shape.downstream(of: units[0], edge: 2) == nil)
    }
}
