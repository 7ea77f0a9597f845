import Communication
import Foundation
import Pipeline
import TestSupport
import Testing
import Training

/// Checkpoints know nothing of replicas (promise P3): parameters, optimiser and streams are stored whole, whoever had
/// a share of them, and any layout goes on from there.
@Suite struct ReplicaCheckpointTests {
    struct Layout: Sendable, CustomTestStringConvertible {
        var stages, replicas: Int
        var testDescription: String { "\(stages)x\(replicas)" }

        init(_ stages: Int, _ replicas: Int) { (self.stages, self.replicas) = (stages, replicas) }
    }

    /// Runs `body` on every rank with a session on a stream and the store in `directory`.
    private func run<Result: Sendable>(
        _ layout: Layout, _ directory: TemporaryDirectory, obstacle: String? = nil,
        _ body: @escaping @Sendable (Session, CheckpointStore, RunFixture) throws -> Result
    ) throws -> Result {
        let fixture = RunFixture(
            model: RunFixture.hybrid,
            parallel: ["micro_batches": "5", "chunks": "2", "threads": "1", "replicas": "\(layout.replicas)"])
        let path = directory.path
        let text = directory.file("text.txt", String(repeating: "the quick brown fox jumps\n", count: 40))
        return try InProcessWorld.run(size: layout.stages * layout.replicas, timeout: 60) { base in
            let communicator: any Communicator =
                if let obstacle { Saboteur(base, obstacle: "\(path)/run/\(obstacle)") } else { base }
            let session = try fixture.session(communicator, ready: false)
            session.runtime.keepsCarryAcrossBatches = true
            session.prepareOptimizer()
            let configuration = DataConfiguration(
                format: .characters, source: .cut([text], shares: [1]), sampling: .stream,
                sequenceLength: fixture.time, batchSize: fixture.batch)
            let store = try CheckpointStore(
                directory: path + "/run", session: session, data: try DataSet(configuration, seed: 1),
                resolvedConfiguration: "")
            return try body(session, store, fixture)
        }[0]
    }

    @Sendable private static func steps(
        _ steps: ClosedRange<Int>, _ session: Session, _ fixture: RunFixture
    ) throws -> [Double] {
        try steps.map {
            try session.trainStep(fixture.tokens(step: $0, restarts: $0 == 1), step: $0, rate: 0.02).loss
        }
    }

    private func tensors(_ directory: TemporaryDirectory, step: Int) throws -> [String: [Double]] {
        let path = directory.path + "/run/step-0000000\(step)"
        var found: [String: [Double]] = [:]
        for file in try FileManager.default.contentsOfDirectory(atPath: path) where file.hasSuffix(".safetensors") {
            for (name, entry) in try StoredTensors(path: "\(path)/\(file)").entries { found[name] = entry.values }
        }
        return found
    }

    @Test(
        arguments: [Layout(2, 2), Layout(1, 3), Layout(4, 1)], [Layout(2, 2), Layout(1, 1), Layout(4, 1), Layout(2, 3)])
    func anyLayoutGoesOn(before: Layout, after: Layout) throws {
        let directory = TemporaryDirectory()
        let uninterrupted = try run(before, directory) { session, store, fixture -> [Double] in
            session.materializeParameters()
            let first = try Self.steps(1...2, session, fixture)
            _ = try store.save(step: 2)
            return try first + Self.steps(3...5, session, fixture)
        }
        let resumed = try run(after, directory) { session, store, fixture -> [Double] in
            #expect(try store.resume()?.step == 2)
            // Nothing has changed, so the same elements are written again.
            _ = try store.save(step: 3)
            return try Self.steps(3...5, session, fixture)
        }
        let stored = try tensors(directory, step: 2)
        #expect(stored.keys.contains("model.embed_tokens.weight.exp_avg_sq"))
        #expect(stored.keys.contains("carry.1.c"))
        #expect(try tensors(directory, step: 3) == stored)
        for (a, b) in zip(uninterrupted[2...], resumed) {
            // Bits where the grouping of sums is the same.
            #expect(before.replicas == after.replicas ? a == b : abs(a - b) < 1e-6 * a)
        }
    }

    /// A replica that only lends its share is not left waiting when the writer fails.
    @Test(.timeLimit(.minutes(1)), arguments: ["model", "optimizer", "stream"])
    func aFailedWriteEndsAllReplicas(kind: String) throws {
        let directory = TemporaryDirectory()
        let obstacle = "step-00000001.partial-writing/\(kind)-00001-of-00002.safetensors"
        let text = try run(Layout(2, 2), directory, obstacle: obstacle) { session, store, fixture -> String in
            session.materializeParameters()
            _ = try Self.steps(1...1, session, fixture)
            return message { _ = try store.save(step: 1) }
        }
        #expect(text.contains("[rank 0/4]") && text.contains(obstacle), "\(text)")
        #expect(
            directory.names().contains("run") && !FileManager.default.fileExists(atPath: directory.path + "/run/latest")
        )
    }
}

/// Puts a directory where a file is to be written, as soon as the one around it exists.
private final class Saboteur: Communicator {
    private let base: any Communicator
    private let obstacle: String

    init(_ base: any Communicator, obstacle: String) {
        self.base = base
        self.obstacle = obstacle
    }

    var rank: Int { base.rank }
    var size: Int { base.size }
    var localRank: Int { base.localRank }
    var localSize: Int { base.localSize }
    var localCoreCount: Int { base.localCoreCount }
    var largestTag: Int { base.largestTag }
    var policy: WaitPolicy { base.policy }

    func start(_ message: Message, at buffer: UnsafeMutableRawPointer?) throws(CommunicationError) -> Request {
        // Fails, as it should, before the directory is there.
        try? FileManager.default.createDirectory(atPath: obstacle, withIntermediateDirectories: false)
        return try base.start(message, at: buffer)
    }

    func poke() throws(CommunicationError) { try base.poke() }
    func abort(exitCode: Int32, because error: any Error) { base.abort(exitCode: exitCode, because: error) }
}
