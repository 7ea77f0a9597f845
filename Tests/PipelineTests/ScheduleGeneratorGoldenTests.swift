import Foundation
import Pipeline
import Testing

/// The exact lists of each generator, as files in `Golden/`: odd sizes, chunks, fewer micro-batches than ranks. With
/// `SEQTRAIN_RECORD=1` in the environment the files are written anew, for review.
@Suite struct ScheduleGeneratorGoldenTests {
    static let sizes = [(p: 3, m: 5, k: 1), (p: 2, m: 3, k: 2), (p: 4, m: 2, k: 1)]

    @Test(arguments: ScheduleCatalog.names) func listsAreUnchanged(name: String) throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Golden")
        for (p, m, k) in Self.sizes {
            let schedule = try ScheduleCatalog.training(
                name, ScheduleRequest(rankCount: p, microBatchCount: m, chunkCount: k))
            let file = folder.appending(path: "\(name)-p\(p)-m\(m)-k\(k).sched")
            if ProcessInfo.processInfo.environment["SEQTRAIN_RECORD"] == "1" {
                try schedule.text.write(to: file, atomically: true, encoding: .utf8)
            }
            let text = try String(contentsOf: file, encoding: .utf8)
            #expect(schedule.text == text, "\(file.lastPathComponent)")
            #expect(try Schedule(text: text) == schedule)
        }
    }
}
