import Communication
import Models
import Pipeline
import Testing
import Training

/// The state of streams belongs to the model: saved on one number of ranks, it continues on any other.
@Suite struct StreamStateTests {
    private let fixture = RunFixture(
        model: RunFixture.hybrid, parallel: ["micro_batches": "3", "chunks": "2", "threads": "1"])

    private func data(_ path: String) throws -> DataSet {
        let configuration = DataConfiguration(
            format: .characters, source: .cut([path], shares: [1]), sampling: .stream, sequenceLength: fixture.time,
            batchSize: fixture.batch)
        return try DataSet(configuration, seed: 1)
    }

    /// Steps `steps` of a stream of batches; resumes before when the directory holds a checkpoint, and
    /// saves after the last.
    private func run(
        _ directory: TemporaryDirectory, ranks: Int, steps: ClosedRange<Int>, _ changes: [String: String] = [:]
    ) throws -> RunResult {
        var fixture = fixture
        fixture.parallel.merge(changes) { $1 }
        let settled = fixture
        let path = directory.path
        let text = directory.file("text.txt", String(repeating: "the quick brown fox jumps\n", count: 40))
        let parts = try InProcessWorld.run(size: ranks, timeout: 60) { communicator -> RunResult in
            let session = try settled.session(communicator, ready: false)
            session.runtime.keepsCarryAcrossBatches = true
            session.prepareOptimizer()
            let store = try CheckpointStore(
                directory: path + "/run", session: session, data: try data(text), resolvedConfiguration: "")
            let resumed = try store.resume()
            #expect(resumed?.step ?? 0 == steps.lowerBound - 1)
            if resumed == nil { session.materializeParameters() }
            var result = RunResult()
            for step in steps {
                let outcome = try session.trainStep(
                    settled.tokens(step: step, restarts: step == 1), step: step, rate: 0.02)
                result.losses.append(outcome.loss.bitPattern)
                result.norms.append(outcome.gradientNorm.bitPattern)
            }
            _ = try store.save(step: steps.upperBound)
            return result
        }
        return parts[0]
    }

    @Test(arguments: [(1, 3), (3, 1), (2, 4)]) func aRunResumesOnOtherRanks(before: Int, after: Int) throws {
        let (whole, parts) = (TemporaryDirectory(), TemporaryDirectory())
        let uninterrupted = try run(whole, ranks: 1, steps: 1...5)
        let first = try run(parts, ranks: before, steps: 1...3)
        let second = try run(parts, ranks: after, steps: 4...5, ["schedule": "gpipe", "rematerialize": "always"])
        #expect(first.losses + second.losses == uninterrupted.losses)
        #expect(first.norms + second.norms == uninterrupted.norms)
    }

    @Test func theStateIsStoredByLayerForAllRows() throws {
        let directory = TemporaryDirectory()
        _ = try run(directory, ranks: 2, steps: 1...1)
        let files = try SafeTensorsCollection(directory.path + "/run/step-00000001", prefix: "stream")
        // LSTM in blocks 1 and 3 with two layers, GRU in block 4; attention keeps nothing across batches.
        let shapes = Dictionary(
            uniqueKeysWithValues: try files.names.map { ($0, try files.entry($0).shape) })
        #expect(
            shapes == [
                "carry.1.c": [2, 5, 12], "carry.1.h": [2, 5, 12], "carry.3.c": [2, 5, 12], "carry.3.h": [2, 5, 12],
                "carry.4.h": [1, 5, 12],
            ])
    }
}
