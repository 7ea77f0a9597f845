import Autograd
import Communication
import Models
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// Data parallelism: `d` replicas of a pipeline give the losses of one, but for the rounding of sums that are grouped
/// by replica; everything else about the layout stays invisible to the last bit.
@Suite struct ReplicaTests {
    /// Largest relative difference from the run on one rank over 20 steps, in which the loss falls from 3.4 to 2.6: the
    /// stated tolerance. Observed: losses 1e-6, norms 1.1e-4, which is what one micro-batch less gives on one rank.
    private static let lossTolerance = 1e-5
    private static let normTolerance = 1e-3
    /// Relative RMS difference of a step's gradients; one addition of floats rounds by 6e-8.
    private static let gradientTolerance = 1e-6

    struct Layout: Sendable, CustomTestStringConvertible {
        var stages, replicas: Int
        var settings: [String: String]

        var testDescription: String {
            "\(stages)x\(replicas) "
                + settings.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: " ")
        }
    }

    /// Tied embeddings and dropout throughout.
    private static let layouts = [
        Layout(stages: 2, replicas: 2, settings: ["micro_batches": "4"]),
        Layout(stages: 1, replicas: 2, settings: ["micro_batches": "5", "threads": "2"]),
        Layout(stages: 2, replicas: 3, settings: ["micro_batches": "5", "chunks": "3"]),
        Layout(stages: 3, replicas: 2, settings: ["micro_batches": "3", "rematerialize": "always", "chunks": "2"]),
        Layout(
            stages: 2, replicas: 2, settings: ["micro_batches": "3", "schedule": "gpipe", "rematerialize": "[1, 4]"]),
        Layout(stages: 1, replicas: 5, settings: ["micro_batches": "5"]),
    ]

    private func fixture(_ settings: [String: String]) -> RunFixture {
        RunFixture(model: RunFixture.hybrid, parallel: ["threads": "1"].merging(settings) { $1 })
    }

    private func fixture(_ layout: Layout) -> RunFixture {
        fixture(layout.settings.merging(["replicas": "\(layout.replicas)"]) { $1 })
    }

    private func curve(_ fixture: RunFixture, ranks: Int) throws -> [(loss: Double, norm: Double)] {
        try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
            let session = try fixture.session(communicator)
            return try (1...20).map { step in
                let result = try session.trainStep(fixture.tokens(step: 1 + step % 2), step: step, rate: 0.02)
                return (result.loss, result.gradientNorm)
            }
        }[0]
    }

    @Test(arguments: layouts) func theLossCurveIsThatOfOneRank(_ layout: Layout) throws {
        let one = try curve(fixture(layout.settings), ranks: 1)
        let many = try curve(fixture(layout), ranks: layout.stages * layout.replicas)
        for (step, (a, b)) in zip(one, many).enumerated() {
            #expect(abs(b.loss - a.loss) < Self.lossTolerance * a.loss, "loss of step \(step + 1)")
            #expect(abs(b.norm - a.norm) < Self.normTolerance * a.norm, "norm of step \(step + 1)")
        }
        // Before the first update only the sum over replicas differs, in Double.
        #expect(abs(many[0].loss - one[0].loss) < 1e-14 * one[0].loss)
        #expect(one[19].loss < 0.8 * one[0].loss)
    }

    @Test(arguments: layouts) func gradientsAreThoseOfOneRank(_ layout: Layout) throws {
        func gradients(_ fixture: RunFixture, ranks: Int) throws -> [[Int: [Float]]] {
            try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
                let session = try fixture.session(communicator)
                var result: [Int: [Float]] = [:]
                _ = try session.trainStep(fixture.tokens(step: 1), step: 1, rate: 0) { result = $0.mapValues(\.array) }
                return result
            }
        }
        let one = try gradients(fixture(layout.settings), ranks: 1)[0]
        var seen: Set<Int> = []
        for rank in try gradients(fixture(layout), ranks: layout.stages * layout.replicas) {
            for (index, gradient) in rank {
                assertClose("parameter \(index)", one[index]!, gradient, ratio: Self.gradientTolerance)
                seen.insert(index)
            }
        }
        #expect(seen == Set(one.keys))
    }

    /// With the number of replicas fixed, promise P1 holds: stages, threads, schedule, re-materialisation and the
    /// arrival of messages leave no trace, and all replicas have the same parameters.
    @Test(arguments: [2, 3]) func nothingElseAboutTheLayoutShows(replicas: Int) throws {
        func run(_ stages: Int, _ settings: [String: String] = [:], eagerLimit: Int = 4096) throws -> RunResult {
            let shape = ["micro_batches": "5", "chunks": "2", "replicas": "\(replicas)"]
            return try fixture(shape.merging(settings) { $1 }).train(ranks: stages * replicas, eagerLimit: eagerLimit)
        }
        let reference = try run(1)
        #expect(Set(reference.losses).count == 3)
        #expect(reference.parameters.values.allSatisfy { $0.count == replicas })
        for (stages, settings) in [
            (1, [:]), (2, ["schedule": "gpipe", "threads": "2"]), (3, ["rematerialize": "always"]),
            (2, ["partition": "[1, 6]", "schedule": "zb_h1"]), (2, ["schedule": "interleaved", "virtual_stages": "2"]),
        ] as [(Int, [String: String])] {
            let differences = try run(stages, settings, eagerLimit: -1).differences(from: reference)
            #expect(differences.isEmpty, "\(stages) stages, \(settings): \(differences)")
        }
    }

    @Test func evaluationSharesOutTheMicroBatches() throws {
        func loss(_ settings: [String: String], ranks: Int) throws -> [Double] {
            let fixture = fixture(settings)
            return try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
                let session = try fixture.session(communicator)
                let batches = [fixture.tokens(step: 1), fixture.tokens(step: 2, rows: 7, time: 9)]
                let result = try session.evaluate(batches, isStream: false)
                #expect(result.tokens == batches[0].targetCount + batches[1].targetCount)
                return result.loss
            }
        }
        let one = try loss(["micro_batches": "5"], ranks: 1)[0]
        let many = try loss(["micro_batches": "5", "replicas": "2"], ranks: 4)
        #expect(Set(many).count == 1)
        #expect(abs(many[0] - one) < 1e-14 * one)
    }

    // MARK: Recursive depth

    /// Replicas draw the same numbers of iterations, and share one router bias: every micro-batch has the loss that it
    /// has with one pipeline, whatever the placement, and a run repeats itself.
    @Test(arguments: ["depth", "expert", "token", "halting"]) func recursionsAreThoseOfOnePipeline(name: String) throws
    {
        func fixture(_ settings: [String: String]) -> RunFixture {
            let settings = ["micro_batches": "5"].merging(settings) { $1 }
            return RoutedInvarianceTests.models[name] == nil
                ? DepthInvarianceTests.fixture(name, settings) : RoutedInvarianceTests.fixture(name, settings)
        }
        let one = try fixture([:]).train(ranks: 1)
        let two = try fixture(["replicas": "2"]).train(ranks: 2)
        for (a, b) in zip(one.losses, two.losses) {
            let (a, b) = (Double(bitPattern: a), Double(bitPattern: b))
            #expect(abs(a - b) < Self.lossTolerance * a, "\(a), \(b)")
        }
        let (first, of) = (Double(bitPattern: two.losses[0]), Double(bitPattern: one.losses[0]))
        #expect(abs(first - of) < 1e-14 * of)
        // Signs of whole numbers, which replicas add up exactly.
        for (key, bits) in one.parameters where key.contains("router_bias") {
            #expect(two.parameters[key] == [bits[0], bits[0]])
        }
        for settings in [["schedule": "zb_h1"], ["schedule": "breadth_first", "placement": "ring"]] {
            let other = try fixture(settings.merging(["replicas": "2"]) { $1 }).train(ranks: 4)
            let differences = other.differences(from: two)
            #expect(differences.isEmpty, "\(name), \(settings): \(differences)")
        }
    }

    // MARK: Memory

    /// ZeRO-1: the optimiser's state is shared out over replicas; parameters are not.
    @Test func replicasShareTheOptimizerState() throws {
        var fixture = fixture(["micro_batches": "4"])
        fixture.model =
            "vocabulary_size: 29\nwidth: 64\nlayers: [{ repeat: 2, mixer: { type: gru }, mlp: { hidden_size: 128 } }]"
        func bytes(_ replicas: Int) throws -> [(live: Int, planned: Int, peak: Int, optimizer: Int, parameters: Int)] {
            var fixture = fixture
            fixture.parallel["replicas"] = "\(replicas)"
            let settled = fixture
            return try InProcessWorld.run(size: 2 * replicas, timeout: 60) { communicator in
                let session = try settled.session(communicator)
                for step in 1...2 { _ = try session.trainStep(settled.tokens(step: step), step: step, rate: 0.01) }
                let pool = session.context.pool
                return (
                    pool.liveBytes, session.plan.layout.predictedPeakBytes[session.pipeline.rank], pool.peakBytes,
                    pool.liveBytes(.optimizer), pool.liveBytes(.parameters)
                )
            }
        }
        let (alone, shared) = (try bytes(1), try bytes(2))
        for (rank, bytes) in shared.enumerated() {
            let reference = alone[rank % 2]
            #expect(bytes.parameters == reference.parameters)
            #expect(abs(Double(bytes.optimizer) / Double(reference.optimizer) - 0.5) < 0.02)
            #expect(bytes.peak <= bytes.planned)
        }
    }

    /// After warm-up a step asks the system for nothing, and leaves nothing behind.
    @Test func stepsNeitherAllocateNorLeak() throws {
        let fixture = fixture(["micro_batches": "4", "replicas": "2"])
        _ = try InProcessWorld.run(size: 4, timeout: 60) { communicator in
            let session = try fixture.session(communicator)
            let pool = session.context.pool
            var history: [(system: Int, live: Int)] = []
            for step in 1...12 {
                _ = try session.trainStep(fixture.tokens(step: step), step: step, rate: 0.01)
                history.append((pool.systemAllocationCount, pool.liveBytes))
            }
            #expect(history[11].live == history[5].live)
            #expect(pool.liveBytes(.messages) == 0)
            // Receives may be posted a little earlier or later.
            #expect(history[11].system - history[7].system <= 2)
        }
    }

    // MARK: Failures

    @Test(.timeLimit(.minutes(1)), arguments: 0..<4) func aFailedSendEndsAll(culprit: Int) throws {
        let fixture = fixture(["micro_batches": "4", "replicas": "2"])
        let failure = #expect(throws: RankFailure.self) {
            _ = try InProcessWorld.run(size: 4, timeout: 60) { communicator in
                let faulty = FaultyCommunicator(communicator, .failSend(communicator.rank == culprit ? 70 : 1_000_000))
                let session = try fixture.session(faulty)
                for step in 1...5 { _ = try session.trainStep(fixture.tokens(step: step), step: step, rate: 0.01) }
            }
        }
        #expect(failure?.rank == culprit)
        // Errors speak of the job's ranks, not of the replica's.
        #expect(failure.map { "\($0.underlying)" }?.contains("rank \(culprit)") == true, "\(failure as Any)")
    }

    @Test(arguments: [
        (
            3, ["replicas": "2"],
            "parallel.replicas is 2, but 3 ranks do not make 2 equal pipelines; start a multiple of 2 ranks (2 × the number of stages), or set parallel.replicas to a divisor of 3"
        ),
        (
            1, ["replicas": "2"],
            "parallel.replicas is 2, but 1 rank does not make 2 equal pipelines; start a multiple of 2 ranks (2 × the number of stages), or set parallel.replicas to a divisor of 1"
        ),
        (
            4, ["replicas": "2", "stages": "3"],
            "the plan has 3 stages × 2 replicas but the job has 4 ranks; start 6 ranks (mpirun -n 6, or --local-ranks 6), or set parallel.stages=auto"
        ),
        (
            2, ["replicas": "3", "micro_batches": "2"],
            "run.yaml:5:41: 'parallel.replicas': 3 replicas cannot share out 2 micro-batches; use at most 2, or raise micro_batches"
        ),
    ])
    func layoutsThatCannotBeAreExplained(ranks: Int, parallel: [String: String], text: String) {
        let fixture = RunFixture(model: RunFixture.hybrid, parallel: parallel)
        let got = message {
            do {
                _ = try InProcessWorld.run(size: ranks, timeout: 20) { _ = try fixture.session($0) }
            } catch let failure as RankFailure { throw failure.underlying }
        }
        #expect(got == text)
    }
}
