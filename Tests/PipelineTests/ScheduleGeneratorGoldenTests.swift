import Foundation
import Pipeline
import Testing

/// The exact lists of each generator, as files in `Golden/`: odd sizes, chunks, fewer micro-batches than ranks. With
/// `SEQTRAIN_RECORD=1` in the environment the files are written anew, for review.
@Suite struct ScheduleGeneratorGoldenTests {
    static let sizes = [(p: 3, m: 5, k: 1), (p: 2, m: 3, k: 2), (p: 4, m: 2, k: 1)]

    @Test(arguments: ScheduleCatalog.names) func listsAreUnchanged(name: String) throws {
        for (p, m, k) in Self.sizes {
            let schedule = try ScheduleCatalog.training(
                name, ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k))
            try compare(schedule, "\(name)-p\(p)-m\(m)-k\(k)")
        }
    }

    /// A ring with a last stage on its home rank, and two rings.
    @Test(arguments: ScheduleGeneratorTests.ringSchedules) func ringsAreUnchanged(name: String) throws {
        for (p, s, rings, m) in [(3, 7, 1, 4), (4, 8, 2, 4)] {
            let schedule = try ScheduleCatalog.training(
                name,
                ScheduleRequest(rankCount: p, placement: .ring, stageCount: s, ringCount: rings, microBatchCount: m))
            try compare(schedule, "\(name)-p\(p)-s\(s)-rings\(rings)-m\(m)")
        }
    }

    private func compare(_ schedule: Schedule, _ name: String) throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Golden/\(name).sched")
        if ProcessInfo.processInfo.environment["SEQTRAIN_RECORD"] == "1" {
            try schedule.text.write(to: file, atomically: true, encoding: .utf8)
        }
        let text = try String(contentsOf: file, encoding: .utf8)
        #expect(schedule.text == text, "\(file.lastPathComponent)")
        #expect(try Schedule(text: text) == schedule)
    }
}
