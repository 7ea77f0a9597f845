import Autograd
import Communication
import Foundation
import Models
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// Mixtures of recursions under the pipeline: promise P1, loops without tokens, generation, balance without a loss.
@Suite struct RoutedInvarianceTests {
    static let models = [
        // Capacities that fall, a recurrent layer over routed tokens, an auxiliary router, corrections of one's own.
        "expert": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        tie_embeddings: true
        layers:
          - { mixer: { type: gru } }
          - recursion:
              count: 3
              share_norms: false
              relaxation: { rank: 2 }
              router: { type: expert, capacity_warmup_steps: 3, sampling: aux_router, z_loss: 0.01, network: mlp }
            layers:
              - { mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }
              - { mixer: { type: lstm } }
          - { mixer: { type: attention, head_count: 2 } }
        """,
        "shared keys": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        layers:
          - recursion:
              count: 3
              share_key_values: true
              router: { type: expert, gating: additive, coefficient: 0.1, update_keys: true }
            layers: [{ repeat: 2, mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }]
        """,
        "token": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        layers:
          - recursion:
              count: 3
              share_key_values: true
              router: { type: token, balancing: loss_free, bias_step: 0.05, z_loss: 0.01 }
            layers: [{ repeat: 2, mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }]
          - { mixer: { type: gru } }
        """,
        // One micro-batch's choices are another's average.
        "token, every gate": """
        vocabulary_size: 29
        width: 8
        layers:
          - recursion:
              count: 4
              router: { type: token, gate_at: every, coefficient: 0.5, balance_warmup_steps: 1 }
            layers: [{ mixer: { type: mingru } }, { mixer: { type: attention, head_count: 2 } }]
        """,
        // Equal gates: every token is through after the first recursion, and the others get none.
        "token, empty": """
        vocabulary_size: 29
        width: 8
        layers:
          - recursion: { count: 3, router: { type: token, temperature: 1e30, z_loss: 0.1 } }
            layers: [{ repeat: 2, mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }]
        """,
        "random": """
        vocabulary_size: 29
        width: 8
        layers:
          - recursion: { count: 3, router: { random: true, capacity: [1, 0.5, 0.2] } }
            layers: [{ repeat: 2, mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }]
        """,
        "keys without routers": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        layers:
          - recursion: { count: 3, share_key_values: true }
            layers:
              - { mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }
              - { mixer: { type: attention, head_count: 2, window: 4 } }
        """,
    ]

    static func fixture(_ model: String, _ settings: [String: String] = [:]) -> RunFixture {
        RunFixture(model: models[model]!, parallel: ["threads": "1"].merging(settings) { $1 }, batch: 5, time: 11)
    }

    static let layouts: [(ranks: Int, settings: [String: String])] = [
        (1, ["schedule": "gpipe", "threads": "2"]), (1, ["rematerialize": "[2, 3, 5]"]), (2, ["schedule": "1f1b"]),
        (2, ["schedule": "zb_v"]), (2, ["schedule": "interleaved", "virtual_stages": "3"]),
        (3, ["schedule": "zb_h1", "rematerialize": "always"]), (4, ["schedule": "gpipe", "rematerialize": "always"]),
        (2, ["schedule": "breadth_first", "placement": "ring"]),
        (3, ["schedule": "interleaved", "placement": "ring", "rematerialize": "always"]),
    ]

    @Test(arguments: models.keys.sorted(), [2, 3])
    func everyPlacementTrainsTheSameBits(model: String, microBatches: Int) throws {
        let cut = [
            "micro_batches": "\(microBatches)",
            "chunks": model == "keys without routers" ? "\(microBatches)" : "1",
        ]
        let reference = try Self.fixture(model, cut).train(ranks: 1)
        #expect(Set(reference.losses).count == 3)
        for (ranks, settings) in Self.layouts {
            var settings = settings
            if model == "token, every gate" || model == "expert", settings["rematerialize"] == "[2, 3, 5]" {
                settings["rematerialize"] = model == "expert" ? "[3, 4, 6]" : "[2, 3, 6]"
            }
            let differences = try Self.fixture(model, cut.merging(settings) { $1 }).train(ranks: ranks)
                .differences(from: reference)
            #expect(differences.isEmpty, "\(model), \(ranks) ranks, \(settings): \(differences)")
        }
    }

    /// Choices are those of each sequence, and terms are means over micro-batches: the cut only rounds.
    @Test(arguments: ["shared keys", "token"]) func microBatchesOnlyRound(model: String) throws {
        func losses(_ microBatches: Int) throws -> [Double] {
            try Self.fixture(model, ["micro_batches": "\(microBatches)"]).train(ranks: 1).losses
                .map(Double.init(bitPattern:))
        }
        for (a, b) in zip(try losses(1), try losses(5)) { #expect(abs(a - b) < 1e-4 * a, "\(a), \(b)") }
    }

    // MARK: Statistics

    /// Signs of logits against capacities: with zero weights every logit is 0, which generation lets through.
    @Test func evaluationTellsHowWellGenerationGuesses() throws {
        let evaluations = try [1, 3].map { ranks in
            try InProcessWorld.run(size: ranks) { communicator in
                let fixture = Self.fixture("shared keys", ["micro_batches": "2"])
                let session = try fixture.session(communicator)
                for (_, parameter) in session.heldParameters where parameter.name.contains("router") {
                    parameter.value.fill(0)
                    parameter.valueChanged()
                }
                return try session.evaluate([fixture.tokens(step: 1)], isStream: false)
            }[0]
        }
        #expect(evaluations[0] == evaluations[1])
        // All 11 tokens go on, twice, and there is room for 7, then 3.
        let statistics = evaluations[0].statistics
        #expect(statistics.map(\.layer) == ["model.layers.1.mor_router", "model.layers.2.mor_router"])
        #expect(statistics.map(\.term) == ["sampling_accuracy", "sampling_accuracy"])
        let values: [Double] = statistics.map(\.value)
        #expect(values == [7.0 / 11.0, 3.0 / 11.0] as [Double])
    }

    /// With equal gates every token takes the first recursion.
    @Test func evaluationTellsTheLoads() throws {
        func statistics(_ model: String, ranks: Int) throws -> [String: Double] {
            let evaluation = try InProcessWorld.run(size: ranks) { communicator in
                let fixture = Self.fixture(model, ["micro_batches": "2"])
                return try fixture.session(communicator).evaluate(
                    [fixture.tokens(step: 1), fixture.tokens(step: 2)], isStream: false)
            }[0]
            return Dictionary(uniqueKeysWithValues: evaluation.statistics.map { ($0.term, $0.value) })
        }
        #expect(
            try statistics("token, empty", ranks: 1) == [
                "load_1": 1, "load_2": 0, "load_3": 0, "load_entropy": 0, "max_violation": 2,
            ])
        let some = try statistics("token", ranks: 1)
        #expect(try statistics("token", ranks: 3) == some)
        let loads = (1...3).map { some["load_\($0)"]! }
        #expect(abs(loads.reduce(0, +) - 1) < 1e-12 && loads.max()! < 1)
        #expect(abs(some["max_violation"]! - (3 * loads.max()! - 1)) < 1e-12)
        #expect(some["load_entropy"]! > 0)
    }

    /// Interrupted while capacities still fall, or with biases on their way, and gone on with elsewhere.
    @Test(arguments: ["expert", "token", "token, every gate"]) func resumesOnOtherRanks(model: String) throws {
        var fixture = Self.fixture(model)
        fixture.model = fixture.model.replacing("warmup_steps: 3", with: "warmup_steps: 5")
        fixture.model = fixture.model.replacing("warmup_steps: 1", with: "warmup_steps: 5")
        var ring = fixture
        ring.parallel.merge(["placement": "ring", "schedule": "zb_interleaved"]) { $1 }
        let whole = try fixture.losses(1...8, ranks: 1, in: TemporaryDirectory())
        for last in [3, 5] {
            let (start, rest) = (last == 3 ? fixture : ring, last == 3 ? ring : fixture)
            let directory = TemporaryDirectory()
            let parts =
                try start.losses(1...last, ranks: 2, in: directory, saves: true)
                + rest.losses(last + 1...8, ranks: 3, in: directory)
            #expect(parts == whole, "\(model), interrupted after step \(last)")
        }
    }

    // MARK: Limits

    /// What a router that stops no token leaves of a recursion, written out with skips.
    static let limits: [(name: String, recursion: String, skips: String)] = [
        // H + Block(H), twice.
        (
            "expert", "count: 2, router: { gating: additive, capacity: [1, 1], sampling: none }",
            "{ from: 0, to: 2 }, { from: 0, to: 3 }, { from: 1, to: 3 }"
        ),
        // H + Block(Block(H)).
        (
            "token", "count: 2, router: { type: token, gating: additive, balance_warmup_steps: 3, coefficient: 0 }",
            "{ from: 0, to: 3 }"
        ),
    ]

    @Test(arguments: limits.indices) func routersThatStopNoTokenAreSkips(index: Int) throws {
        let limit = Self.limits[index]
        func run(_ recursion: String, _ skips: String) throws -> (losses: [Double], parameters: [[Float]]) {
            let fixture = RunFixture(
                model: """
                    vocabulary_size: 29
                    width: 8
                    skips: [\(skips)]
                    layers:
                      - recursion: { \(recursion) }
                        layers: [{ mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }]
                    """,
                optimizer: "{ type: sgd, clip_norm: 0.5 }")
            return try InProcessWorld.run(size: 1) { communicator in
                let session = try fixture.session(communicator)
                // Values follow names, which differ.
                let block = session.model.registry.parameters.filter {
                    $0.name.hasPrefix("model.layers.") && !$0.name.contains("router")
                }
                for (number, parameter) in block.enumerated() {
                    for i in 0..<parameter.value.count {
                        parameter.value.pointer[i] = Float((7 * i + number) % 13 - 6) / 13
                    }
                    parameter.valueChanged()
                }
                let losses = try (1...3).map {
                    try session.trainStep(fixture.tokens(step: $0), step: $0, rate: 0.02).loss
                }
                return (losses, block.map(\.value.array))
            }[0]
        }
        let (routed, plain) = (try run(limit.recursion, ""), try run("count: 2", limit.skips))
        for (a, b) in zip(routed.losses, plain.losses) { #expect(abs(a - b) < 1e-5 * b, "\(limit.name): \(a), \(b)") }
        for (a, b) in zip(routed.parameters, plain.parameters) { assertClose(limit.name, b, a, ratio: 1e-4) }
    }

    @Test(arguments: [
        ("expert", ["schedule": "zb_h1"]), ("token", ["schedule": "1f1b"]), ("shared keys", ["schedule": "gpipe"]),
        ("expert", ["schedule": "interleaved", "placement": "ring"]),
        ("token", ["schedule": "breadth_first", "placement": "ring"]),
        ("shared keys", ["schedule": "zb_interleaved", "placement": "ring"]),
        ("token, every gate", ["schedule": "interleaved", "placement": "ring", "rematerialize": "always"]),
    ])
    func memoryStaysBelowTheLayoutsPrediction(model: String, settings: [String: String]) throws {
        var fixture = Self.fixture(model, settings.merging(["micro_batches": "5"]) { $1 })
        fixture.model = fixture.model.replacing("width: 8", with: "width: 64")
        fixture.time = 64
        for (rank, bytes) in try fixture.peakBytes(ranks: 2).enumerated() {
            #expect(bytes.measured <= bytes.predicted, "\(model), \(settings), rank \(rank): \(bytes)")
        }
    }

    // MARK: Generation

    /// Prompts that come whole and token by token, on any ranks, lead to the same logits.
    @Test(arguments: models.keys.sorted()) func promptsMayComeInPieces(model: String) throws {
        let time = 11
        let given = Array(Self.fixture(model).tokens(step: 3, rows: 1, time: time).inputs)
        func logits(promptCount: Int, ranks: Int) throws -> [Float] {
            try Self.fixture(model).lastLogits([given], promptCount: promptCount, ranks: ranks)[0]
        }
        let whole = try logits(promptCount: time, ranks: 1)
        for ranks in 1...3 {
            for promptCount in [1, 6] {
                assertClose(
                    "\(ranks) ranks, prompt of \(promptCount)", whole,
                    try logits(promptCount: promptCount, ranks: ranks),
                    ratio: 1e-5)
            }
            assertSameBits("\(ranks) ranks", whole, try logits(promptCount: time, ranks: ranks))
        }
    }

    /// Evaluation by the causal rule, in micro-batches whose sequences keep different numbers of tokens, gives every
    /// position the loss of what generation would write there.
    @Test(arguments: ["expert", "shared keys", "token"]) func evaluationMayChooseAsGenerationDoes(model: String) throws
    {
        let (rows, time) = (5, 11)
        let fixture = Self.fixture(model, ["micro_batches": "2"])
        var batch = fixture.tokens(step: 3, rows: rows, time: time)
        let last = (0..<rows).map { batch.inputs[$0 * time] }
        let targets = (0..<rows * time).map { $0 % time == time - 1 ? last[$0 / time] : -1 }
        batch = TokenBatch(rows: rows, time: time, inputs: batch.inputs, targets: targets, restarts: batch.restarts)
        let evaluated = try InProcessWorld.run(size: 2) { [batch] communicator in
            try fixture.session(communicator).evaluate([batch], isStream: false).loss
        }[0]
        let logits = try fixture.lastLogits(
            (0..<rows).map { Array(batch.inputs[$0 * time..<($0 + 1) * time]) }, promptCount: time, ranks: 1)
        let generated = zip(logits, last).reduce(0.0) { sum, pair in
            let exponentials = pair.0.map { exp(Double($0)) }
            return sum + log(exponentials.reduce(0, +)) - Double(pair.0[Int(pair.1)])
        }
        #expect(abs(evaluated - generated) < 1e-5 * generated, "\(evaluated), \(generated)")
    }

    // MARK: Balance

    /// `bias += u · sign(mean load − load)`: with equal gates all tokens end first, and its bias falls, the others' rise;
    /// so in the next step all end second.
    @Test func biasesFollowTheLoads() throws {
        var fixture = Self.fixture("token", ["micro_batches": "3"])
        fixture.model = fixture.model.replacing("type: token,", with: "type: token, temperature: 1e30,")
        for ranks in [1, 2] {
            let biases = try InProcessWorld.run(size: ranks, timeout: 60) { [fixture] communicator -> [Float]? in
                let session = try fixture.session(communicator)
                for step in 1...2 {
                    let result = try session.trainStep(fixture.tokens(step: step), step: step, rate: 0)
                    #expect(result.auxiliary.keys.sorted() == ["router_z"])
                }
                return session.heldParameters.first { $0.parameter.name == "model.layers.0.router_bias" }?
                    .parameter.value.array
            }
            #expect(biases.compactMap { $0 } == [[0, 0, 0.1]])
        }
    }

    /// From the last step of the warm-up on capacities are those without one.
    @Test func warmupEndsAtItsStep() throws {
        func losses(_ warmup: Int) throws -> [Double] {
            var fixture = Self.fixture("expert")
            fixture.model = fixture.model.replacing("warmup_steps: 3", with: "warmup_steps: \(warmup)")
            return try InProcessWorld.run(size: 1) { [fixture] communicator in
                let session = try fixture.session(communicator)
                return try (1...4).map { try session.trainStep(fixture.tokens(step: 1), step: $0, rate: 0).objective }
            }[0]
        }
        let (warm, plain) = (try losses(3), try losses(0))
        #expect(zip(warm, plain).map { $0 == $1 } == [false, false, true, true])
    }

    /// Recurrent layers that see other tokens, or run in other steps, start every batch afresh.
    @Test(arguments: ["count: 2, router: { capacity: [0.9, 0.5] }", "depth: { mean: 2, backpropagated: 1 }"])
    func chosenTokensLeaveNoStateToTheNextBatch(recursion: String) throws {
        let fixture = RunFixture(
            model: """
                vocabulary_size: 29
                width: 8
                layers: [{ recursion: { \(recursion) }, layers: [{ mixer: { type: gru } }] }]
                """)
        #expect(try fixture.train(ranks: 1, isStream: true) == fixture.train(ranks: 1))
    }

    @Test func theAuxiliaryRouterLearnsTenTimesAsFast() throws {
        let rules = try InProcessWorld.run(size: 1) { communicator in
            try Self.fixture("expert").session(communicator).model.registry.parameters
                .filter { $0.name.contains("router") }.map { ($0.name, $0.updateRule) }
        }[0]
        #expect(rules.count == 12)
        for (name, rule) in rules {
            #expect(rule == .optimizer(rateFactor: name.contains("mlp_router") ? 10 : 1), "\(name)")
        }
    }

    // MARK: Estimates

    /// Fewer tokens in later recursions cost less, as R (R + 1) / 2 to R² in linear work.
    @Test func routedRecursionsAreCheaper() throws {
        func flops(_ router: String) throws -> Double {
            let text = """
                { vocabulary_size: 29, width: 32, layers: [{ recursion: { count: 3\(router) }, layers: [
                { mixer: { type: mingru }, mlp: { hidden_size: 64 } }] }] }
                """
            let model = try Model(
                ConfigurationReader(YAMLConfiguration.parse(text, file: "model.yaml")), dataVocabularySize: nil)
            return model.hidden.reduce(0) { $0 + $1.forwardFLOPsPerToken(time: 300) }
        }
        let (all, routed) = (try flops(""), try flops(", router: { type: expert }"))
        #expect(abs(routed / all - 2.0 / 3) < 0.02)
    }

    // MARK: Errors

    @Test(arguments: [
        ("count: 3, sharing: sequence, router: {}", "needs sharing: cycle, not sequence"),
        ("count: 1, router: {}", "needs a count of at least 2, not 1"),
        ("count: 3, router: { capacity: [1, 0.2, 0.5] }", "grows from 0.2 to 0.5"),
        ("count: 2, router: { capacity: [0.5, 0] }", "recursion 1 keeps nothing"),
        ("count: 2, share_key_values: true, router: { capacity: [0.5, 0.2] }", "begin with 1"),
        ("count: 2, router: { update_keys: true }", "set share_key_values: true"),
        ("count: 2, router: {}", "has a window"),
        ("count: 2, share_key_values: true", nil),
    ])
    func whatCannotBeIsExplained(recursion: String, text: String?) {
        let model = """
            { vocabulary_size: 29, width: 8, layers: [{ recursion: { \(recursion) }, layers: [
            { mixer: { type: attention, head_count: 2, window: 3 } }] }] }
            """
        var got: String?
        do {
            _ = try Model(
                ConfigurationReader(YAMLConfiguration.parse(model, file: "model.yaml")), dataVocabularySize: nil)
        } catch { got = "\(error)" }
        #expect(text == nil ? got == nil : got?.contains(text!) == true, "\(got ?? "nothing")")
    }

    @Test func chunksAndSkipsIntoRoutedTokensAreRefused() {
        func message(_ fixture: RunFixture) -> String {
            do {
                _ = try InProcessWorld.run(size: 1, timeout: 20) { _ = try fixture.session($0) }
                return ""
            } catch let failure as RankFailure { return "\(failure.underlying)" } catch { return "\(error)" }
        }
        #expect(message(Self.fixture("expert", ["chunks": "2"])).contains("compares the tokens of a whole sequence"))
        var fixture = Self.fixture("random")
        fixture.model += "\nskips: [{ from: 1, to: 6 }]"
        #expect(message(fixture).contains("only some tokens come to"))
    }
}
