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
          - recursion: { count: 3, signals: { position: t2t, step: learned } }
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
        (2, ["placement": "ring", "schedule": "zb_interleaved"]), (1, ["schedule": "dualpipe_v"]),
        (4, ["replicas": "2", "schedule": "1f1b"]),
    ]

    @Test(arguments: models.keys.sorted()) func everyLayoutTrainsTheSameBits(model: String) throws {
        let reference = try Self.fixture(model).train(ranks: 1)
        #expect(Set(reference.losses).count == 3)
        for (ranks, settings) in Self.layouts where settings["replicas"] == nil {
            let differences = try Self.fixture(model, settings).train(ranks: ranks).differences(from: reference)
            #expect(differences.isEmpty, "\(model), \(ranks) ranks, \(settings): \(differences)")
        }
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
