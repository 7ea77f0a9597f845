import Communication
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// Promise P1 for models that spend depth: Universal Transformer, adaptive halting, recurrent depth.
@Suite struct DepthInvarianceTests {
    static let models = [
        "universal": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        positions: none
        embedding_scale: true
        tie_embeddings: true
        initialization: glorot_uniform
        layers:
          - recursion: { count: 3, signals: { position: t2t, step: learned, position_range: 50 } }
            layers:
              - { mixer: { type: attention, head_count: 2 }, mlp: { type: relu, hidden_size: 10 } }
              - { mixer: { type: gru }, norm_placement: post }
        """,
        "halting": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        positions: none
        tie_embeddings: true
        layers:
          - { mixer: { type: gru } }
          - recursion: { count: 4, signals: { step: sinusoid }, halting: { bias: 0, epsilon: 0.1, loss_weight: 0.1 } }
            layers:
              - { mixer: { type: attention, head_count: 2 }, mlp: { type: relu, hidden_size: 10 } }
        """,
        "depth": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        tie_embeddings: true
        embedding_scale: true
        initialization: takase
        layers:
          - { mixer: { type: attention, head_count: 2 }, norm_placement: sandwich, mlp: { hidden_size: 10 } }
          - recursion: { depth: { mean: 3, backpropagated: 2, maximum: 7 } }
            layers:
              - { mixer: { type: attention, head_count: 2 }, norm_placement: sandwich, mlp: { hidden_size: 10 } }
              - { mixer: { type: gru }, norm_placement: sandwich }
          - { mixer: { type: attention, head_count: 2 } }
        """,
    ]

    static func fixture(_ model: String, _ settings: [String: String] = [:]) -> RunFixture {
        let shape = ["micro_batches": "4", "threads": "1"]
        return RunFixture(model: models[model]!, parallel: shape.merging(settings) { $1 }, batch: 5, time: 9)
    }

    static let layouts: [(ranks: Int, settings: [String: String])] = [
        (2, ["schedule": "gpipe"]), (3, ["schedule": "1f1b", "rematerialize": "always"]),
        (4, ["schedule": "zb_h1", "threads": "2"]), (2, ["schedule": "interleaved", "virtual_stages": "3"]),
        (3, ["schedule": "zb_v"]), (2, ["placement": "ring", "schedule": "interleaved"]),
        (2, ["placement": "ring", "schedule": "zb_interleaved"]),
    ]

    @Test(arguments: models.keys.sorted()) func everyLayoutTrainsTheSameBits(model: String) throws {
        let reference = try Self.fixture(model).train(ranks: 1)
        #expect(Set(reference.losses).count == 3)
        for (ranks, settings) in Self.layouts {
            let differences = try Self.fixture(model, settings).train(ranks: ranks).differences(from: reference)
            #expect(differences.isEmpty, "\(model), \(ranks) ranks, \(settings): \(differences)")
        }
    }

    /// Stages of iterations without gradient: they have no backward, and gradients go past them.
    @Test(arguments: ["1f1b", "zb_h1"], [[3, 15, 9], [4, 7, 7, 9], [2, 12, 13]])
    func forwardOnlyStagesTrainTheSameBits(schedule: String, partition: [Int]) throws {
        let settings = ["schedule": schedule, "partition": "\(partition)"]
        let stages = try InProcessWorld.run(size: partition.count) {
            try Self.fixture("depth", settings).session($0).plan.training.shape.forwardOnly
        }[0]
        #expect(stages == (partition[0] == 3 ? [1] : partition[0] == 4 ? [1, 2] : []))
        let reference = try Self.fixture("depth").train(ranks: 1)
        let differences = try Self.fixture("depth", settings).train(ranks: partition.count)
            .differences(from: reference)
        #expect(differences.isEmpty, "\(schedule), \(partition): \(differences)")
    }

    /// A bias that stops every position at once, and one that never does; a mean over positions in between.
    @Test(arguments: [("40", 1.0...1.0), ("-40", 4.0...4.0), ("0", 1.5...3.5)])
    func evaluationTellsWhenPositionsHalt(bias: String, expected: ClosedRange<Double>) throws {
        var fixture = Self.fixture("halting")
        fixture.model = fixture.model.replacing("bias: 0,", with: "bias: \(bias),")
        let evaluations = try [1, 3].map { ranks in
            try InProcessWorld.run(size: ranks) { [fixture] in
                try fixture.session($0).evaluate([fixture.tokens(step: 1), fixture.tokens(step: 2)], isStream: false)
            }[0]
        }
        #expect(evaluations[0] == evaluations[1])
        let statistic = try #require(evaluations[0].statistics.first)
        #expect(statistic.layer == "model.layers.1" && statistic.term == "steps")
        #expect(expected.contains(statistic.value), "\(statistic.value)")
    }

    /// Without a halt before, all the weight is the last application's: the block applied a fixed number of times.
    @Test func haltingAtTheLastStartsAsAFixedNumberOfSteps() throws {
        func loss(_ halting: String) throws -> Double {
            var fixture = Self.fixture("halting")
            fixture.model = fixture.model.replacing(
                ", halting: { bias: 0, epsilon: 0.1, loss_weight: 0.1 }", with: halting)
            return try InProcessWorld.run(size: 1) { [fixture] in
                try fixture.session($0).evaluate([fixture.tokens(step: 1)], isStream: false)
            }[0].loss
        }
        let fixed = try loss("")
        #expect(try loss(", halting: { bias: -90, halts_at_last: true }") == fixed)
        #expect(try loss(", halting: { bias: -90 }") != fixed)
    }

    /// In training, sequences start at positions of their own; in evaluation all start at 0.
    @Test func sequencesStartAtPositionsOfTheirOwn() throws {
        let ranged = Self.fixture("universal")
        var plain = ranged
        plain.model = plain.model.replacing(", position_range: 50", with: "")
        #expect(try ranged.train(ranks: 1).losses != plain.train(ranks: 1).losses)
        let evaluations = try [ranged, plain].map { fixture in
            try InProcessWorld.run(size: 1) {
                try fixture.session($0).evaluate([fixture.tokens(step: 1)], isStream: false)
            }[0]
        }
        #expect(evaluations[0] == evaluations[1])
    }

    /// Twenty steps, and the same twenty with a change of ranks after ten: unrolled, then on a ring.
    @Test(arguments: models.keys.sorted()) func resumesOnOtherRanks(model: String) throws {
        let (fixture, directory) = (Self.fixture(model, ["micro_batches": "2"]), TemporaryDirectory())
        let ring = Self.fixture(model, ["micro_batches": "2", "placement": "ring", "schedule": "breadth_first"])
        let whole = try fixture.losses(1...20, ranks: 1, in: directory)
        let parts =
            try fixture.losses(1...10, ranks: 3, in: directory, saves: true)
            + ring.losses(11...20, ranks: 2, in: directory)
        #expect(parts == whole)
    }

    /// Carries of iterations that a step runs, forward only or not.
    @Test(arguments: ["universal", "depth"]) func chunksTrainTheSameBits(model: String) throws {
        let reference = try Self.fixture(model, ["chunks": "3"]).train(ranks: 1)
        for (ranks, schedule) in [(3, "1f1b"), (2, "zb_h1")] {
            let differences = try Self.fixture(model, ["chunks": "3", "schedule": schedule]).train(ranks: ranks)
                .differences(from: reference)
            #expect(differences.isEmpty, "\(model), \(ranks) ranks, \(schedule): \(differences)")
        }
    }

    // MARK: Draws

    /// From the zero state, with the same tokens and parameters, only the number of iterations tells steps apart.
    @Test func stepsDrawTheirNumbersOfIterations() throws {
        var fixture = Self.fixture("depth")
        fixture.model = fixture.model.replacing("dropout: 0.1", with: "dropout: 0")
            .replacing("maximum: 7 }", with: "maximum: 7 }, state: zero")
        let losses = try InProcessWorld.run(size: 1) { [fixture] communicator in
            let session = try fixture.session(communicator)
            return try (1...12).map { try session.trainStep(fixture.tokens(step: 1), step: $0, rate: 0).loss }
        }[0]
        #expect((3...7).contains(Set(losses).count), "\(losses)")
    }

    /// Every sample and position starts from a state of its own, however the sequence is cut.
    @Test func statesBelongToSamplesAndPositions() throws {
        func losses(_ settings: [String: String]) throws -> [Double] {
            try InProcessWorld.run(size: 1) { communicator in
                let fixture = Self.fixture("depth", settings.merging(["micro_batches": "1"]) { $1 })
                let session = try fixture.session(communicator)
                let one = fixture.tokens(step: 1, rows: 1)
                let twice = TokenBatch(
                    rows: 2, time: one.time, inputs: one.inputs + one.inputs, targets: one.targets + one.targets,
                    restarts: [true, true])
                return try [one, twice].map { try session.evaluate([$0], isStream: false).loss }
            }[0]
        }
        let (whole, cut) = (try losses([:]), try losses(["chunks": "3"]))
        #expect(abs(whole[1] - 2 * whole[0]) > 1e-5 * whole[0])
        for (a, b) in zip(whole, cut) { #expect(abs(a - b) < 1e-6 * a, "\(a), \(b)") }
    }

    // MARK: Memory

    /// A rank of forward-only stages alone, rings, and what is recomputed; steps of few and of many iterations.
    @Test(arguments: [
        (3, ["schedule": "1f1b", "partition": "[3, 15, 9]"]), (4, ["schedule": "zb_h1", "partition": "[4, 7, 7, 9]"]),
        (3, ["schedule": "gpipe", "partition": "[3, 15, 9]", "rematerialize": "always"]),
        (2, ["placement": "ring", "schedule": "interleaved"]),
        (3, ["placement": "ring", "schedule": "zb_interleaved"]),
    ])
    func memoryStaysBelowTheLayoutsPrediction(ranks: Int, settings: [String: String]) throws {
        var fixture = Self.fixture("depth", settings)
        fixture.model = fixture.model.replacing("width: 8", with: "width: 64")
        fixture.time = 64
        for (rank, bytes) in try fixture.peakBytes(ranks: ranks, steps: 6).enumerated() {
            #expect(bytes.measured <= bytes.predicted, "\(settings), rank \(rank): \(bytes)")
        }
    }

    /// Whatever the steps run, they leave nothing behind.
    @Test func sampledDepthsLeaveNothingBehind() throws {
        for settings in [["schedule": "1f1b"], ["placement": "ring", "schedule": "breadth_first"]] {
            let fixture = Self.fixture("depth", settings)
            _ = try InProcessWorld.run(size: 2, timeout: 60) { communicator in
                let session = try fixture.session(communicator)
                let pool = session.context.pool
                var history: [(live: Int, system: Int)] = []
                for step in 1...40 {
                    _ = try session.trainStep(fixture.tokens(step: step), step: step, rate: 0.01)
                    history.append((pool.liveBytes, pool.systemAllocationCount))
                }
                #expect(Set(history.dropFirst().map(\.live)).count == 1)
                // A depth that has not come before takes buffers; receives may be posted a little earlier or later.
                #expect(history[39].system - history[19].system <= 4, "\(history.map(\.system))")
            }
        }
    }
}
