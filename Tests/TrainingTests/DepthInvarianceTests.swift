import Communication
import Pipeline
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
        #expect(expected.contains(statistic.mean), "\(statistic.mean)")
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

    /// Twenty steps, and the same twenty with a change of ranks after ten.
    @Test(arguments: models.keys.sorted()) func resumesOnOtherRanks(model: String) throws {
        let directory = TemporaryDirectory()
        let path = directory.path
        let text = directory.file("text.txt", String(repeating: "the quick brown fox jumps\n", count: 40))
        func run(_ ranks: Int, _ steps: ClosedRange<Int>, savesAt last: Int?) throws -> [Double] {
            try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
                let fixture = Self.fixture(model, ["micro_batches": "2"])
                let session = try fixture.session(communicator, ready: false)
                session.prepareOptimizer()
                let data = DataConfiguration(
                    format: .characters, source: .cut([text], shares: [1]), sampling: .random,
                    sequenceLength: fixture.time, batchSize: fixture.batch)
                let store = try CheckpointStore(
                    directory: path + "/run", session: session, data: try DataSet(data, seed: 1),
                    resolvedConfiguration: "")
                if steps.lowerBound == 1 {
                    session.materializeParameters()
                } else {
                    #expect(try store.resume()?.step == steps.lowerBound - 1)
                }
                let losses = try steps.map {
                    try session.trainStep(fixture.tokens(step: $0), step: $0, rate: 0.02).loss
                }
                if let last { _ = try store.save(step: last) }
                return losses
            }[0]
        }
        let whole = try run(1, 1...20, savesAt: nil)
        #expect(try run(3, 1...10, savesAt: 10) + run(2, 11...20, savesAt: nil) == whole)
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
}
