import Autograd
import Communication
import Models
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// Losses at the end of every recursion: promise P1, limits, what evaluation tells of them.
@Suite struct EarlyExitTests {
    static let models = [
        // Blocks behind the group that remember, dropout at the head, corrections of each recursion's own.
        "middle": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        head_dropout: 0.1
        tie_embeddings: true
        layers:
          - { mixer: { type: gru } }
          - recursion: { count: 3, relaxation: { rank: 2 }, early_exit: { mode: weighted, distillation: 0.3 } }
            layers:
              - { mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }
              - { mixer: { type: mingru } }
          - { mixer: { type: lstm } }
          - { mixer: { type: attention, head_count: 2 } }
        """,
        "cycle": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        layers:
          - recursion: { count: 4, share_key_values: true, signals: {}, early_exit: { mode: aggressive } }
            layers: [{ repeat: 2, mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }]
        """,
    ]

    static func fixture(_ model: String, _ settings: [String: String] = [:]) -> RunFixture {
        RunFixture(
            model: models[model] ?? model, parallel: ["threads": "1", "micro_batches": "3"].merging(settings) { $1 },
            batch: 5, time: 9)
    }

    static let layouts: [(ranks: Int, settings: [String: String])] = [
        (1, ["schedule": "gpipe", "threads": "2", "rematerialize": "always"]), (1, ["rematerialize": "[3, 9, 12]"]),
        (2, ["schedule": "1f1b"]), (2, ["placement": "ring", "schedule": "breadth_first"]),
        (2, ["schedule": "interleaved", "virtual_stages": "3"]), (3, ["schedule": "zb_h1"]),
        (3, ["schedule": "zb_v", "rematerialize": "always"]), (2, ["placement": "ring", "schedule": "zb_interleaved"]),
        (4, ["placement": "ring", "rings": "2"]), (4, ["schedule": "gpipe"]),
    ]

    @Test(arguments: zip(["cycle", "middle"], [1, 2])) func everyPlacementTrainsTheSameBits(
        model: String, chunks: Int
    ) throws {
        let cut = chunks > 1 ? ["chunks": "\(chunks)"] : [:]
        let reference = try Self.fixture(model, cut).train(ranks: 1)
        #expect(Set(reference.losses).count == 3)
        for (ranks, settings) in Self.layouts {
            let differences = try Self.fixture(model, cut.merging(settings) { $1 }).train(ranks: ranks)
                .differences(from: reference)
            #expect(differences.isEmpty, "\(model), \(ranks) ranks, \(settings): \(differences)")
        }
    }

    @Test(arguments: ["uniform", "weighted", "aggressive"]) func oneRecursionIsThePlainModel(mode: String) throws {
        func result(_ exits: String) throws -> RunResult {
            try Self.fixture(
                """
                vocabulary_size: 29
                width: 8
                dropout: 0.1
                layers:
                  - recursion: { count: 1\(exits) }
                    layers: [{ mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }]
                  - { mixer: { type: lstm } }
                """
            ).train(ranks: 2)
        }
        #expect(try result(", early_exit: { mode: \(mode), distillation: 0.5 }") == result(""))
    }

    /// The terms of a step, and their sum.
    @Test func stepsTellEveryTerm() throws {
        for ranks in [1, 3] {
            let result = try InProcessWorld.run(size: ranks) {
                let fixture = Self.fixture("middle")
                return try fixture.session($0).trainStep(fixture.tokens(step: 1), step: 1, rate: 0.02)
            }[0]
            #expect(
                result.auxiliary.keys.sorted() == ["exit_1", "exit_1_distillation", "exit_2", "exit_2_distillation"])
            #expect(result.lossWeight == 0.5)
            // Before training, every exit guesses evenly.
            let even = result.loss
            #expect(abs(result.auxiliary["exit_1"]! - 0.7 / 6 * even) < 0.05 * even / 6)
            #expect(abs(result.auxiliary["exit_2"]! - 0.7 / 3 * even) < 0.05 * even / 3)
            #expect(result.auxiliary["exit_1_distillation"]! > 0)
            let terms = result.auxiliary.values.reduce(0.5 * result.loss, +)
            #expect(abs(result.objective - terms) < 1e-12)
        }
    }

    /// Exit `r` is the model cut at `r`.
    @Test func evaluationTellsTheLossOfEveryExit() throws {
        func model(_ recursion: String) -> String {
            """
            vocabulary_size: 29
            width: 8
            initializer_range: 0.3
            layers:
              - { mixer: { type: gru } }
              - recursion: { \(recursion) }
                layers: [{ mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }]
              - { mixer: { type: attention, head_count: 2 } }
              - { mixer: { type: lstm } }
            """
        }
        func evaluation(_ recursion: String, ranks: Int = 1) throws -> Session.Evaluation {
            let fixture = Self.fixture(model(recursion))
            return try InProcessWorld.run(size: ranks) { communicator in
                let session = try fixture.session(communicator)
                session.fillByOrder()
                return try session.evaluate([fixture.tokens(step: 1), fixture.tokens(step: 2)], isStream: false)
            }[0]
        }
        let exits = try evaluation("count: 3, early_exit: {}")
        #expect(try evaluation("count: 3, early_exit: {}", ranks: 3) == exits)
        #expect(exits.loss == (try evaluation("count: 3").loss))
        #expect(exits.statistics.map(\.term) == ["exit_1_loss", "exit_2_loss"])
        for (r, statistic) in zip(1..., exits.statistics) {
            let cut = try evaluation("count: \(r)").meanLoss
            #expect(abs(statistic.value - cut) < 1e-6, "exit \(r): \(statistic.value), not \(cut)")
            #expect(abs(cut - exits.meanLoss) > 1e-4)
        }
    }

    @Test func memoryStaysBelowTheLayoutsPrediction() throws {
        for (model, settings) in [
            ("middle", ["schedule": "zb_h1"]), ("cycle", ["schedule": "1f1b"]), ("cycle", ["placement": "ring"]),
        ] {
            var fixture = Self.fixture(model, settings)
            fixture.model = fixture.model.replacing("width: 8", with: "width: 64")
            fixture.time = 64
            for (rank, (measured, predicted)) in try fixture.peakBytes(ranks: 2).enumerated() {
                #expect(measured <= predicted, "\(model), rank \(rank): \(measured) bytes, not \(predicted)")
            }
        }
    }

    private static let block = "mixer: { type: attention, head_count: 2 }"

    @Test(arguments: [
        ("{ recursion: { count: 2, sharing: sequence, early_exit: {} }, layers: [{ \(block) }] }", "sharing: cycle"),
        ("{ recursion: { count: 2, halting: {}, early_exit: {} }, layers: [{ \(block) }] }", "remove it or early_exit"),
        ("{ recursion: { count: 2, router: {}, early_exit: {} }, layers: [{ \(block) }] }", "remove it or early_exit"),
        (
            "{ recursion: { count: 2, early_exit: {} }, layers: [{ \(block) }] }, { residual: false, mixer: { type: gru, hidden_size: 4 } }",
            "every block there must keep it"
        ),
        (
            "{ recursion: { count: 2, early_exit: {} }, layers: [{ \(block) }] }, { recursion: { count: 2 }, layers: [{ \(block) }] }",
            "behind which only blocks may stand"
        ),
    ]) func saysWhatDoesNotGoTogether(layers: String, message: String) throws {
        let text = "{ vocabulary_size: 29, width: 8, layers: [\(layers)] }"
        let error = #expect(throws: ConfigurationError.self) {
            try Model(
                ConfigurationReader(YAMLConfiguration.parse(text, file: "model.yaml")), dataVocabularySize: nil)
        }
        #expect(error.map { "\($0)".contains(message) } == true, "\(String(describing: error))")
    }
}

extension Session {
    /// Gives parameters values that follow their order, not their names.
    func fillByOrder() {
        for (index, parameter) in heldParameters where parameter.shape.rank > 1 || parameter.name.contains("bias") {
            for i in 0..<parameter.value.count {
                parameter.value.pointer[i] = Float((7 * i + 3 * index) % 23 - 11) / 23
            }
            parameter.valueChanged()
        }
    }
}
