import Autograd
import Communication
import Models
import Pipeline
import Synchronization
import Tensors
import TestSupport
import Testing
import Training

/// Promise P1: the number of ranks, and all else that only says where and when work is done, is
/// invisible in the result.
@Suite struct SessionTests {
    /// Every cut of batch and sequence, dividing or not, with each choice that must not matter.
    private static let cuts = [1, 3, 4].flatMap { m in [1, 2, 3].map { (microBatches: m, chunks: $0) } }

    @Test(arguments: cuts) func ranksThreadsAndSchedulesLeaveNoTrace(microBatches: Int, chunks: Int) throws {
        func fixture(_ settings: [String: String] = [:]) -> RunFixture {
            let shape = [
                "micro_batches": "\(microBatches)", "chunks": "\(chunks)", "threads": "1", "schedule": "gpipe",
            ]
            return RunFixture(model: RunFixture.hybrid, parallel: shape.merging(settings) { $1 })
        }
        let reference = try fixture().train(ranks: 1)
        #expect(Set(reference.losses).count == 3)
        let variants: [(ranks: Int, settings: [String: String])] = [
            (1, ["threads": "2", "schedule": "1f1b"]),
            (1, ["rematerialize": "[1, 2, 5]"]),
            (2, ["schedule": "1f1b"]),
            (2, ["schedule": "gpipe", "rematerialize": "always", "threads": "2"]),
            (3, ["schedule": "1f1b", "rematerialize": "except_last"]),
            (3, ["schedule": "gpipe", "rematerialize": "[2, 3]"]),
            (4, ["schedule": "1f1b", "rematerialize": "always"]),
            (4, ["schedule": "1f1b", "partition": "[1, 4, 1, 1]", "threads": "2"]),
        ]
        for (ranks, settings) in variants {
            let differences = try fixture(settings).train(ranks: ranks).differences(from: reference)
            #expect(differences.isEmpty, "\(ranks) ranks, \(settings): \(differences)")
        }
    }

    /// Messages that complete late, or only when received, change nothing either.
    @Test func unbufferedMessagesLeaveNoTrace() throws {
        let fixture = RunFixture(
            model: RunFixture.hybrid, parallel: ["micro_batches": "4", "chunks": "2", "threads": "1"])
        let differences = try fixture.train(ranks: 3, eagerLimit: -1).differences(from: fixture.train(ranks: 1))
        #expect(differences.isEmpty, "\(differences)")
    }

    /// The batch's loss is the same sum however it is cut, up to rounding, dropout included: its masks
    /// belong to the sample and the position.
    @Test func microBatchesAndChunksOnlyRound() throws {
        func losses(_ microBatches: Int, _ chunks: Int) throws -> [Double] {
            try RunFixture(
                model: RunFixture.hybrid,
                parallel: ["micro_batches": "\(microBatches)", "chunks": "\(chunks)", "threads": "1"]
            ).train(ranks: 1).losses.map(Double.init(bitPattern:))
        }
        let whole = try losses(1, 1)
        for (m, k) in [(5, 1), (1, 11), (2, 3)] {
            for (a, b) in zip(whole, try losses(m, k)) { #expect(abs(a - b) < 1e-4 * a, "m \(m), k \(k)") }
        }
    }

    @Test func lossAndNormAreThoseOfTheWholeBatch() throws {
        let fixture = RunFixture(model: RunFixture.hybrid, parallel: ["micro_batches": "3", "threads": "1"])
        _ = try InProcessWorld.run(size: 1) { communicator in
            let session = try fixture.session(communicator)
            let batch = fixture.tokens(step: 1)
            var squares = 0.0
            let outcome = try session.trainStep(batch, step: 1, rate: 0) { gradients in
                #expect(gradients.count == session.model.registry.parameters.count)
                for gradient in gradients.values { for g in gradient.array { squares += Double(g) * Double(g) } }
            }
            #expect(batch.targetCount < batch.targets.count)
            #expect(outcome.tokenCount == batch.targetCount)
            #expect(abs(outcome.gradientNorm - squares.squareRoot()) < 1e-6 * outcome.gradientNorm)
            // An untrained model is about as good as a guess.
            #expect(abs(outcome.loss - 3.367) < 0.1)
        }
    }

    @Test func aBatchWithoutTargetsIsHarmless() throws {
        let fixture = RunFixture(model: RunFixture.hybrid, parallel: ["micro_batches": "2", "threads": "1"])
        _ = try InProcessWorld.run(size: 2) { communicator in
            let session = try fixture.session(communicator)
            let some = fixture.tokens(step: 1)
            let none = TokenBatch(
                rows: some.rows, time: some.time, inputs: some.inputs,
                targets: some.targets.map { _ in -1 }, restarts: some.restarts)
            let outcome = try session.trainStep(none, step: 1, rate: 0.1)
            #expect(outcome.loss == 0)
            #expect(outcome.gradientNorm == 0)
        }
    }

    /// Evaluation cuts whatever size its batches have, and does not depend on the cut but for rounding.
    @Test(arguments: [1, 2]) func evaluationTakesOtherSizes(ranks: Int) throws {
        let fixture = RunFixture(
            model: RunFixture.hybrid, parallel: ["micro_batches": "4", "chunks": "3", "threads": "1"])
        let whole = RunFixture(model: RunFixture.hybrid, parallel: ["micro_batches": "1", "threads": "1"])
        func loss(_ fixture: RunFixture, _ ranks: Int) throws -> Double {
            try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
                let session = try fixture.session(communicator)
                let batches = [fixture.tokens(step: 1, rows: 4, time: 20), fixture.tokens(step: 2, rows: 6, time: 3)]
                let result = try session.evaluate(batches, isStream: false)
                #expect(result.tokens == batches[0].targetCount + batches[1].targetCount)
                return result.loss
            }[0]
        }
        let (cut, reference) = (try loss(fixture, ranks), try loss(whole, 1))
        #expect(abs(cut - reference) < 1e-5 * reference)
    }

    /// Every token has one prediction: asked for each symbol in turn, evaluation hits each token once. On any ranks.
    @Test func evaluationCountsHits() throws {
        func hits(_ ranks: Int) throws -> [Int] {
            let fixture = RunFixture(
                model: RunFixture.hybrid, parallel: ["micro_batches": "4", "chunks": "2", "threads": "1"])
            return try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
                let session = try fixture.session(communicator)
                let some = fixture.tokens(step: 1)
                return try (0..<RunFixture.vocabulary).map { symbol in
                    let batch = TokenBatch(
                        rows: some.rows, time: some.time, inputs: some.inputs,
                        targets: some.targets.map { $0 < 0 ? -1 : Int32(symbol) }, restarts: some.restarts)
                    return try session.evaluate([batch], isStream: false).hits
                }
            }[ranks - 1]
        }
        let reference = try hits(1)
        #expect(reference.reduce(0, +) == RunFixture(model: RunFixture.hybrid).tokens(step: 1).targetCount)
        for ranks in 2...3 { #expect(try hits(ranks) == reference) }
    }

    /// A sequence is right when every counted target of it is, whatever chunk, micro-batch, rank or replica it lies on.
    @Test func evaluationCountsRightSequences() throws {
        let some = RunFixture(model: RunFixture.hybrid).tokens(step: 1)
        /// Counts one target in the first half of a row, and one in the second, which are other chunks.
        @Sendable func batch(_ targets: [(Int32, Int32)?]) -> TokenBatch {
            var all = [Int32](repeating: -1, count: some.inputs.count)
            for (row, pair) in targets.enumerated() {
                guard let pair else { continue }
                (all[row * some.time + 1], all[(row + 1) * some.time - 2]) = pair
            }
            return TokenBatch(
                rows: some.rows, time: some.time, inputs: some.inputs, targets: all, restarts: some.restarts)
        }
        func results(_ ranks: Int, _ replicas: Int) throws -> [[Int]] {
            let fixture = RunFixture(
                model: RunFixture.hybrid,
                parallel: ["micro_batches": "4", "chunks": "2", "threads": "1", "replicas": "\(replicas)"])
            return try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
                let session = try fixture.session(communicator)
                func counts(_ targets: [(Int32, Int32)?]) throws -> [Int] {
                    let result = try session.evaluate([batch(targets)], isStream: false)
                    return [result.hits, result.tokens, result.rightSequences, result.sequences]
                }
                // What the model says in two rows, found by asking for each symbol.
                let said = try (0..<2).map { row in
                    var pair: (Int32, Int32) = (0, 0)
                    for symbol in 0..<Int32(RunFixture.vocabulary) {
                        let blank = [(Int32, Int32)?](repeating: nil, count: row)
                        if try counts(blank + [(symbol, -1)])[2] == 1 { pair.0 = symbol }
                        if try counts(blank + [(-1, symbol)])[2] == 1 { pair.1 = symbol }
                    }
                    return pair
                }
                let wrong = (said[0].0, (said[0].1 + 1) % Int32(RunFixture.vocabulary))
                return try [counts(said), counts([wrong, said[1]]), counts([nil, said[1], nil])]
            }[ranks - 1]
        }
        for (ranks, replicas) in [(1, 1), (3, 1), (2, 2)] {
            #expect(try results(ranks, replicas) == [[4, 4, 2, 2], [3, 4, 1, 2], [2, 2, 1, 1]])
        }
    }

    // MARK: Buffers

    /// After warm-up a step asks the system for nothing, and leaves nothing behind.
    @Test(arguments: [1, 3]) func stepsNeitherAllocateNorLeak(ranks: Int) throws {
        let fixture = RunFixture(
            model: RunFixture.hybrid, parallel: ["micro_batches": "4", "chunks": "2", "threads": "1"])
        let growth = try InProcessWorld.run(size: ranks, timeout: 60) { communicator -> [Int] in
            let session = try fixture.session(communicator)
            let pool = session.context.pool
            var history: [[Int]] = []
            for step in 1...12 {
                _ = try session.trainStep(fixture.tokens(step: step), step: step, rate: 0.01)
                history.append([pool.systemAllocationCount, pool.liveBytes, pool.liveBytes(.activations)])
            }
            #expect(history[11][2] == 0)
            #expect(history[11][1] == history[5][1])
            return [history[11][0] - history[7][0]]
        }
        // Receives may be posted a little earlier or later: on one rank the count is exact.
        for rank in growth { #expect(rank[0] <= (ranks == 1 ? 0 : 2)) }
    }

    // MARK: Streams

    private let stream = RunFixture(
        model: RunFixture.hybrid, parallel: ["micro_batches": "3", "chunks": "2", "threads": "1"])

    /// Losses of steps on a stream, with or without an evaluation between them.
    private func streamed(ranks: Int, evaluates: Bool, keeps: Bool = true) throws -> [UInt64] {
        try InProcessWorld.run(size: ranks, timeout: 60) { [stream] communicator in
            let session = try stream.session(communicator)
            session.runtime.keepsCarryAcrossBatches = keeps
            return try (1...4).map { step in
                let result = try session.trainStep(
                    stream.tokens(step: step, restarts: step == 1), step: step, rate: 0.02)
                if evaluates {
                    _ = try session.evaluate(
                        [stream.tokens(step: 60), stream.tokens(step: 61, restarts: false)], isStream: true)
                }
                return result.loss.bitPattern
            }
        }[0]
    }

    @Test func evaluationLeavesTheStreamAlone() throws {
        let plain = try streamed(ranks: 1, evaluates: false)
        #expect(try streamed(ranks: 1, evaluates: true) == plain)
        #expect(try streamed(ranks: 3, evaluates: true) == plain)
        let forgetful = try streamed(ranks: 1, evaluates: false, keeps: false)
        #expect(forgetful[0] == plain[0])
        #expect(forgetful[1] != plain[1], "state of the first batch reaches the second")
    }

    /// Rows that start afresh drop their state; the others keep theirs.
    @Test func restartedRowsForget() throws {
        let fixture = stream
        let losses = try InProcessWorld.run(size: 1) { communicator -> [Double] in
            try [
                [true, true, true, true, true], [false, true, false, true, false], [false, false, false, false, false],
            ].map {
                let session = try fixture.session(communicator)
                session.runtime.keepsCarryAcrossBatches = true
                _ = try session.trainStep(fixture.tokens(step: 1), step: 1, rate: 0)
                let next = fixture.tokens(step: 2)
                let batch = TokenBatch(
                    rows: next.rows, time: next.time, inputs: next.inputs, targets: next.targets, restarts: $0)
                return try session.trainStep(batch, step: 2, rate: 0).loss
            }
        }[0]
        let fresh = try InProcessWorld.run(size: 1) { communicator -> Double in
            try fixture.session(communicator).trainStep(fixture.tokens(step: 2), step: 2, rate: 0).loss
        }[0]
        #expect(abs(losses[0] - fresh) < 1e-9)
        #expect(Set(losses).count == 3)
    }

    // MARK: Failures

    private struct Broken: Error {}

    /// One rank that throws ends the job on all of them, and says which it was.
    @Test(.timeLimit(.minutes(1)), arguments: 0..<3) func anErrorOnOneRankEndsAll(culprit: Int) throws {
        let fixture = RunFixture(model: RunFixture.hybrid, parallel: ["micro_batches": "4", "threads": "1"])
        let ended = Atomic(0)
        let failure = #expect(throws: RankFailure.self) {
            _ = try InProcessWorld.run(size: 3, timeout: 60) { communicator in
                defer { ended.add(1, ordering: .relaxed) }
                let session = try fixture.session(communicator)
                for step in 1...3 {
                    _ = try session.trainStep(fixture.tokens(step: step), step: step, rate: 0.01) { _ in
                        if step == 2, communicator.rank == culprit { throw Broken() }
                    }
                }
            }
        }
        #expect(failure?.rank == culprit)
        #expect(ended.load(ordering: .relaxed) == 3)
    }

    @Test(.timeLimit(.minutes(1))) func aFailedSendEndsAll() throws {
        let fixture = RunFixture(model: RunFixture.hybrid, parallel: ["micro_batches": "4", "threads": "1"])
        let failure = #expect(throws: RankFailure.self) {
            _ = try InProcessWorld.run(size: 3, timeout: 60) { communicator in
                let faulty = FaultyCommunicator(communicator, .failSend(communicator.rank == 1 ? 20 : 1_000_000))
                let session = try fixture.session(faulty)
                for step in 1...5 { _ = try session.trainStep(fixture.tokens(step: step), step: step, rate: 0.01) }
            }
        }
        #expect(failure?.rank == 1)
    }

    /// All ranks learn of a NaN before any has updated anything.
    @Test func aNonFiniteLossStopsEveryRankBeforeTheUpdate() throws {
        let fixture = RunFixture(model: RunFixture.hybrid, parallel: ["micro_batches": "2", "threads": "1"])
        let messages = try InProcessWorld.run(size: 3, timeout: 60) { communicator -> String in
            let session = try fixture.session(communicator)
            let poisoned = "model.layers.2.self_attn.q_proj.weight"
            for (_, parameter) in session.heldParameters where parameter.name == poisoned {
                parameter.value.pointer[3] = .nan
            }
            let before = session.heldParameters.map { $0.parameter.value.array.map(\.bitPattern) }
            var text = ""
            do {
                _ = try session.trainStep(
                    fixture.tokens(step: 1), step: 1, rate: 0.1, lastCheckpoint: "runs/a/step-00000005")
            } catch {
                text = "\(error)"
                #expect(error is RunError)
            }
            #expect(session.heldParameters.map { $0.parameter.value.array.map(\.bitPattern) } == before)
            return text
        }
        #expect(Set(messages).count == 1)
        #expect(
            messages[0].hasPrefix(
                "step 1: the loss is nan and the first non-finite gradient is that of 'model.embed_tokens.weight'; nothing was updated. The last complete checkpoint is runs/a/step-00000005."
            ),
            "\(messages[0])")
    }

    @Test(arguments: [
        (
            8, ["threads": "1"],
            "8 stages cannot be cut from 7 layers (embedding and head included); use at most 7 ranks, or more layers"
        ),
        (
            2, ["stages": "3"],
            "the plan has 3 stages but the job has 2 ranks; start 3 ranks (mpirun -n 3, or --local-ranks 3), or set parallel.stages=auto"
        ),
        (1, ["chunks": "12"], "parallel.chunks 12 exceeds train.sequence_length 11; use at most 11 chunks"),
        (1, ["rematerialize": "[6]"], "parallel.rematerialize names layer 6, which is no block; the layers are 1 to 5"),
        (
            1, ["schedule": "/nowhere/mine.sched"],
            "schedule /nowhere/mine.sched does not exist; parallel.schedule starts at the configuration's folder"
        ),
        (
            2, ["partition": "[1, 2, 4]"],
            "the plan has 3 stages but the job has 2 ranks; parallel.partition needs one number of layers per stage"
        ),
    ])
    func plansThatCannotBeAreExplained(ranks: Int, parallel: [String: String], text: String) {
        let fixture = RunFixture(model: RunFixture.hybrid, parallel: parallel)
        let got = message {
            do {
                _ = try InProcessWorld.run(size: ranks, timeout: 20) { _ = try fixture.session($0) }
            } catch let failure as RankFailure { throw failure.underlying }
        }
        #expect(got == text)
    }

    // MARK: Generation

    /// Token by token over any number of ranks, several sequences in flight = the logits of each whole sequence.
    @Test(arguments: [1, 2, 4], [1, 3]) func decodingFollowsTheForwardPass(ranks: Int, streams: Int) throws {
        let batch = RunFixture(model: RunFixture.hybrid).tokens(step: 3, rows: streams, time: 9)
        let given = (0..<streams).map { Array(batch.inputs[$0 * 9..<($0 + 1) * 9]) }
        let stepwise = try RunFixture(model: RunFixture.hybrid).lastLogits(given, promptCount: 4, ranks: ranks)
        for stream in 0..<streams {
            let whole = try RunFixture(model: RunFixture.hybrid).lastLogits([given[stream]], promptCount: 9, ranks: 1)[
                0]
            #expect(whole.count == RunFixture.vocabulary)
            assertClose("logits of stream \(stream)", whole, stepwise[stream], ratio: 1e-5)
        }
    }
}
