import Foundation
import Testing
import Training

@Suite struct MetricsLogTests {
    private func text(_ directory: TemporaryDirectory) -> String {
        String(decoding: directory.bytes("metrics.jsonl"), as: UTF8.self)
    }

    private func append(_ directory: TemporaryDirectory, after step: Int, _ steps: ClosedRange<Int>) throws {
        let log = try MetricsLog(path: directory.path + "/metrics.jsonl", lastStep: step)
        for step in steps { try log.append([.init("step", .int(step)), .init("loss", .double(0.5))]) }
    }

    @Test func linesAreAppendedInOrder() throws {
        let directory = TemporaryDirectory()
        try append(directory, after: 0, 1...2)
        try append(directory, after: 2, 3...3)
        #expect(text(directory) == (1...3).map { "{\"step\":\($0),\"loss\":0.5}\n" }.joined())
    }

    /// A run killed at step 5 resumes after its checkpoint of step 2: steps 3 to 5 are run, and stand there, once.
    @Test func stepsThatAreRunAgainStandOnce() throws {
        let directory = TemporaryDirectory()
        try append(directory, after: 0, 1...5)
        try append(directory, after: 2, 3...4)
        let lines = text(directory).split(separator: "\n")
        #expect(lines.map { $0.prefix(9) } == ["{\"step\":1", "{\"step\":2", "{\"step\":3", "{\"step\":4"])
    }

    @Test func tornLinesGo() throws {
        let directory = TemporaryDirectory()
        directory.file("metrics.jsonl", "{\"step\":1,\"loss\":0.5}\nnot json\n{\"loss\":1}\n{\"step\":2,\"lo")
        try append(directory, after: 2, 3...3)
        #expect(text(directory) == "{\"step\":1,\"loss\":0.5}\n{\"step\":3,\"loss\":0.5}\n")
    }
}
