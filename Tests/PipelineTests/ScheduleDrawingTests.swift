import Pipeline
import Testing

/// Schedules as pictures: F, B and R take one column each.
@Suite struct ScheduleDrawingTests {
    static func draw(_ name: String, _ request: ScheduleRequest) throws -> String {
        let schedule = try ScheduleCatalog.training(name, request)
        return ScheduleDrawing.text(
            schedule,
            try Simulator.simulate(schedule, .uniform(stageCount: schedule.shape.stageCount), keepsTimeline: true))
    }

    struct Table: Sendable, CustomTestStringConvertible {
        var name: String
        var p: Int
        var m: Int
        var k: Int
        var picture: String
        var testDescription: String { "\(name)-p\(p)-m\(m)-k\(k)" }

        init(_ name: String, _ p: Int, _ m: Int, _ k: Int, _ picture: String) {
            (self.name, self.p, self.m, self.k, self.picture) = (name, p, m, k, picture)
        }
    }

    @Test(arguments: [
        Table(
            "gpipe", 1, 1, 1,
            """
            rank 0  F0 B0
            """),
        Table(
            "1f1b", 1, 1, 1,
            """
            rank 0  F0 B0
            """),
        Table(
            "gpipe", 2, 4, 1,
            """
            rank 0  F0 F1 F2 F3 .  .  B0 B1 B2 B3
            rank 1  .  F0 F1 F2 F3 B0 B1 B2 B3 .
            """),
        Table(
            "1f1b", 2, 4, 1,
            """
            rank 0  F0 F1 .  B0 F2 B1 F3 B2 .  B3
            rank 1  .  F0 B0 F1 B1 F2 B2 F3 B3 .
            """),
        Table(
            "gpipe", 3, 2, 1,
            """
            rank 0  F0 F1 .  .  .  .  B0 B1
            rank 1  .  F0 F1 .  .  B0 B1 .
            rank 2  .  .  F0 F1 B0 B1 .  .
            """),
        Table(
            "1f1b", 3, 2, 1,
            """
            rank 0  F0 F1 .  .  .  B0 .  B1
            rank 1  .  F0 F1 .  B0 .  B1 .
            rank 2  .  .  F0 B0 F1 B1 .  .
            """),
        Table(
            "gpipe", 4, 8, 1,
            """
            rank 0  F0 F1 F2 F3 F4 F5 F6 F7 .  .  .  .  .  .  B0 B1 B2 B3 B4 B5 B6 B7
            rank 1  .  F0 F1 F2 F3 F4 F5 F6 F7 .  .  .  .  B0 B1 B2 B3 B4 B5 B6 B7 .
            rank 2  .  .  F0 F1 F2 F3 F4 F5 F6 F7 .  .  B0 B1 B2 B3 B4 B5 B6 B7 .  .
            rank 3  .  .  .  F0 F1 F2 F3 F4 F5 F6 F7 B0 B1 B2 B3 B4 B5 B6 B7 .  .  .
            """),
        Table(
            "1f1b", 4, 8, 1,
            """
            rank 0  F0 F1 F2 F3 .  .  .  B0 F4 B1 F5 B2 F6 B3 F7 B4 .  B5 .  B6 .  B7
            rank 1  .  F0 F1 F2 .  .  B0 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 .  B6 .  B7 .
            rank 2  .  .  F0 F1 .  B0 F2 B1 F3 B2 F4 B3 F5 B4 F6 B5 F7 B6 .  B7 .  .
            rank 3  .  .  .  F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7 .  .  .
            """),
        Table(
            "gpipe", 2, 2, 2,
            """
            rank 0  F0.0 F0.1 F1.0 F1.1 .    .    B0.1 B0.0 B1.1 B1.0
            rank 1  .    F0.0 F0.1 F1.0 F1.1 B0.1 B0.0 B1.1 B1.0 .
            """),
        Table(
            "1f1b", 2, 2, 2,
            """
            rank 0  F0.0 F0.1 F1.0 .    B0.1 F1.1 B0.0 .    B1.1 B1.0
            rank 1  .    F0.0 F0.1 B0.1 F1.0 B0.0 F1.1 B1.1 B1.0 .
            """),
        Table(
            "1f1b", 2, 3, 3,
            """
            rank 0  F0.0 F0.1 F0.2 F1.0 .    B0.2 F1.1 B0.1 F1.2 B0.0 F2.0 B1.2 F2.1 B1.1 F2.2 B1.0 .    B2.2 B2.1 B2.0
            rank 1  .    F0.0 F0.1 F0.2 B0.2 F1.0 B0.1 F1.1 B0.0 F1.2 B1.2 F2.0 B1.1 F2.1 B1.0 F2.2 B2.2 B2.1 B2.0 .
            """),
    ]) func scheduleLooksAsDrawn(table: Table) throws {
        let request = ScheduleRequest(rankCount: table.p, microBatchCount: table.m, chunkCount: table.k)
        #expect(try Self.draw(table.name, request) == table.picture + "\n")
    }

    @Test func recomputeStandsBeforeItsBackward() throws {
        let always = ScheduleRequest(rankCount: 2, microBatchCount: 3, rematerialization: .always)
        #expect(
            try Self.draw("gpipe", always) == """
                rank 0  F0 F1 F2 R0 .  .  B0 R1 B1 R2 B2
                rank 1  .  F0 F1 F2 R0 B0 R1 B1 R2 B2 .

                """)
        var exceptLast = always
        exceptLast.rematerialization = .exceptLast
        #expect(
            try Self.draw("1f1b", exceptLast) == """
                rank 0  F0 F1 R0 .  B0 F2 R1 B1 .  B2
                rank 1  .  F0 R0 B0 F1 R1 B1 F2 B2 .

                """)
    }

    @Test func longActionsAreContinuedAndLongDrawingsCut() throws {
        let schedule = try ScheduleCatalog.training("gpipe", ScheduleRequest(rankCount: 2, microBatchCount: 2))
        let costs = CostModel.uniform(stageCount: 2, forward: 1, inputGradient: 1, weightGradient: 1)
        let simulation = try Simulator.simulate(schedule, costs, keepsTimeline: true)
        #expect(
            ScheduleDrawing.text(schedule, simulation) == """
                rank 0  F0 F1 .  .  .  B0 -  B1 -
                rank 1  .  F0 F1 B0 -  B1 -  .  .

                """)
        #expect(
            ScheduleDrawing.text(schedule, simulation, maximumColumns: 3) == """
                rank 0  F0 F1 .  …
                rank 1  .  F0 F1 …

                """)
    }
}
