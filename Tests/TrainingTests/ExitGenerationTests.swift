import Autograd
import Communication
import Kernels
import Models
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// Generation in which tokens leave a shared block before all its applications have run.
@Suite struct ExitGenerationTests {
    /// With how many applications generation runs, in place of `COUNT`.
    static let models: [String: (text: String, count: Int)] = [
        "recursive": (
            """
            vocabulary_size: 29
            width: 8
            layers:
              - { mixer: { type: gru } }
              - recursion: { count: COUNT, early_exit: {} }
                layers: [{ repeat: 2, mixer: { type: attention, head_count: 2, kv_head_count: 1 }, mlp: { hidden_size: 10 } }]
              - { mixer: { type: attention, head_count: 2 } }
            """, 4
        ),
        "shared keys": (
            """
            vocabulary_size: 29
            width: 8
            layers:
              - recursion: { count: COUNT, share_key_values: true, signals: { step: sinusoid } }
                layers: [{ mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }]
            """, 3
        ),
        "depth": (
            """
            vocabulary_size: 29
            width: 8
            tie_embeddings: true
            layers:
              - { mixer: { type: gru } }
              - recursion: { depth: { mean: COUNT, backpropagated: 2, maximum: 12 } }
                layers: [{ norm_placement: sandwich, mixer: { type: attention, head_count: 2, qk_bias: true } }]
              - { mixer: { type: attention, head_count: 2 } }
            """, 5
        ),
    ]

    struct Outcome: Equatable {
        /// After every token that was fed alone.
        var logits: [[Float]]
        var meanIterations: Double?
    }

    static let time = 9

    static func fixture(_ model: String, count: Int? = nil, _ settings: [String: String] = [:]) -> RunFixture {
        let (text, usual) = models[model]!
        return RunFixture(
            model: text.replacing("COUNT", with: "\(count ?? usual)"),
            parallel: ["threads": "1"].merging(settings) { $1 }, batch: 5, time: time)
    }

    static let given = fixture("recursive").tokens(step: 3, rows: 1, time: time).inputs

    /// Two sequences of given tokens, one after the other.
    static func outcome(
        _ fixture: RunFixture, _ rule: ExitRule?, promptCount: Int = 1, ranks: Int = 1
    ) throws -> Outcome {
        try InProcessWorld.run(size: ranks, timeout: 60) { communicator -> Outcome in
            let session = try fixture.session(communicator)
            session.fillByOrder()
            let sequences = [given, given.map { ($0 + 7) % 29 }]
            var positions = [promptCount, promptCount]
            var logits: [[Float]] = [[], []]
            let decoder = try StreamDecoder(
                model: session.model, stageLayers: session.plan.stageLayers, placement: session.plan.placement,
                prompts: sequences.map { Array($0[..<promptCount]) }, communicator: communicator,
                context: session.context, exit: rule
            ) { stream, values in
                logits[stream] += values
                defer { positions[stream] += 1 }
                return positions[stream] < time ? sequences[stream][positions[stream]] : 0
            }
            for _ in promptCount...time { try decoder.advance() }
            _ = try decoder.drawnTokens()
            return Outcome(logits: logits, meanIterations: try decoder.meanIterations())
        }.first { !$0.logits[0].isEmpty }!
    }

    static let layouts: [(ranks: Int, settings: [String: String])] = [
        (1, ["schedule": "interleaved", "virtual_stages": "3"]), (2, [:]), (3, [:]), (4, [:]),
        (2, ["placement": "ring"]),
    ]

    @Test(arguments: models.keys.sorted(), ExitRule.Criterion.allCases)
    func aThresholdThatIsNeverMetChangesNothing(model: String, criterion: ExitRule.Criterion) throws {
        let whole = try Self.outcome(Self.fixture(model), nil, promptCount: 3)
        let threshold = criterion == .argmaxStable || criterion == .confidence ? 1000.0 : 0
        for cache in ExitRule.Cache.allCases {
            let rule = ExitRule(criterion, threshold: threshold, cache: cache)
            for (ranks, settings) in criterion == .latentChange ? Self.layouts : Array(Self.layouts.prefix(1)) {
                let outcome = try Self.outcome(Self.fixture(model, settings), rule, promptCount: 3, ranks: ranks)
                #expect(outcome.logits == whole.logits, "\(cache), \(ranks) ranks")
                #expect(outcome.meanIterations == Double(Self.models[model]!.count))
            }
        }
    }

    @Test(arguments: models.keys.sorted(), [1, 2, 3])
    func aThresholdThatIsAlwaysMetCutsTheModel(model: String, applications: Int) throws {
        let cut = try Self.outcome(Self.fixture(model, count: applications), nil)
        #expect(cut.meanIterations == nil)
        for (criterion, threshold) in [(ExitRule.Criterion.latentChange, 1e9), (.confidence, 0)] {
            for cache in ExitRule.Cache.allCases {
                let rule = ExitRule(criterion, threshold: threshold, cache: cache, minimum: applications)
                let outcome = try Self.outcome(Self.fixture(model), rule)
                #expect(outcome.logits == cut.logits, "\(criterion), \(cache)")
                #expect(outcome.meanIterations == Double(applications))
            }
        }
    }

    private static let thresholds = stride(from: 0.1, to: 1.3, by: 0.1)

    /// Tokens that leave at different times: the same on any ranks, and where cached keys are missing it shows.
    @Test(arguments: models.keys.sorted()) func ranksDoNotShow(model: String) throws {
        func rule(_ threshold: Double, _ cache: ExitRule.Cache) -> ExitRule {
            ExitRule(.latentChange, threshold: threshold, cache: cache)
        }
        var telling: Double?
        for threshold in Self.thresholds {
            let (full, latest) = (
                try Self.outcome(Self.fixture(model), rule(threshold, .full), promptCount: 2),
                try Self.outcome(Self.fixture(model), rule(threshold, .latest), promptCount: 2)
            )
            if model == "shared keys" {
                // Nothing is missing.
                #expect(full == latest)
                let mean = try #require(full.meanIterations)
                if mean > 1, mean < 3 { telling = threshold }
            } else if full != latest {
                telling = threshold
            }
        }
        let threshold = try #require(telling)
        for cache in ExitRule.Cache.allCases {
            let rule = rule(threshold, cache)
            let reference = try Self.outcome(Self.fixture(model), rule, promptCount: 2)
            for (ranks, settings) in Self.layouts {
                let outcome = try Self.outcome(Self.fixture(model, settings), rule, promptCount: 2, ranks: ranks)
                #expect(outcome == reference, "\(cache), \(ranks) ranks, \(settings)")
            }
        }
    }

    /// Against bookkeeping by hand: one carry for every application and layer.
    @Test(arguments: ExitRule.Cache.allCases) func cachesHoldWhatTheRuleSays(cache: ExitRule.Cache) throws {
        let fixture = Self.fixture("recursive")
        var deeper = 0
        for threshold in Self.thresholds {
            let expected = try InProcessWorld.run(size: 1) { communicator -> (logits: [Float], iterations: [Int]) in
                let session = try fixture.session(communicator)
                session.fillByOrder()
                return Self.byHand(session, Self.given, threshold: threshold, fills: cache == .latest)
            }[0]
            let outcome = try Self.outcome(fixture, ExitRule(.latentChange, threshold: threshold, cache: cache))
            #expect(outcome.logits[0] == expected.logits, "threshold \(threshold), \(expected.iterations)")
            // Tokens that go where one before them has not been.
            deeper += zip(expected.iterations, expected.iterations.dropFirst()).count { $0 < $1 }
        }
        #expect(deeper > 0)
    }

    private static func byHand(
        _ session: Session, _ tokens: [Int32], threshold: Double, fills: Bool
    ) -> (logits: [Float], iterations: [Int]) {
        let (model, context) = (session.model, session.context)
        let recursion = model.recursions[0]
        var carries: [Int: Carry] = [:]
        var (logits, iterations): ([Float], [Int]) = ([], [])
        for (position, token) in tokens.enumerated() {
            let pass = Pass(
                tape: Tape(context, isRecording: false), batch: 1, time: 1, positionOffset: position, samples: [0],
                isTraining: false, isGenerating: true)
            var flow = Flow(model.embedding.forward([token], pass))
            func apply(_ index: Int) {
                let layer = model.layers[index] as! any HiddenLayer
                (flow, carries[index]) = layer.forward(flow, carry: carries[index] ?? [], pass)
            }
            for index in 1..<recursion.layers.lowerBound { apply(index) }
            var (count, isOut) = (0, false)
            var start: [Float] = []
            for index in recursion.layers {
                let place = (index - recursion.layers.lowerBound) % recursion.blockLength
                if isOut {
                    guard fills else { continue }
                    // The entry of the application before, which may be a copy itself.
                    let source = carries[index - recursion.blockLength]!
                    carries[index] = ["k", "v"].map { name in
                        let (whole, past) = (source[name]!.value, carries[index]?[name]?.value.array ?? [])
                        let entry = whole.array.suffix(whole.shape[2] * whole.shape[3])
                        let joined = context.tensor(
                            Shape(1, past.count / entry.count + 1, whole.shape[2], whole.shape[3]))
                        for (i, value) in (past + entry).enumerated() { joined.pointer[i] = value }
                        return CarryTensor(name: name, variable: Variable(joined))
                    }
                    continue
                }
                if place == 0 { (count, start) = (count + 1, flow.activation.value.array) }
                apply(index)
                guard place == recursion.blockLength - 1 else { continue }
                let end = flow.activation.value.array.map(Double.init)
                let change = zip(end, start).reduce(0) { $0 + ($1.0 - Double($1.1)) * ($1.0 - Double($1.1)) }
                isOut = change.squareRoot() < threshold * end.reduce(0) { $0 + $1 * $1 }.squareRoot()
            }
            for index in recursion.layers.upperBound..<model.layerCount - 1 { apply(index) }
            iterations.append(count)
            logits += model.head.logits(flow.activation, pass).array
        }
        return (logits, iterations)
    }

    // MARK: What cannot be

    private static let attention = "{ mixer: { type: attention, head_count: 2 } }"

    @Test(
        arguments: [
            ("{ recursion: { count: 3 }, layers: [\(attention)] }", "latent_change", 4, nil),
            ("{ recursion: { count: 3 }, layers: [\(attention)] }", "kl", 1, nil),
            ("{ recursion: { count: 3 }, layers: [\(attention)] }", "kl", 2, "generate with one rank"),
            (attention, "kl", 1, "this model has 0 shared blocks"),
            ("{ recursion: { count: 3, router: {} }, layers: [\(attention)] }", "kl", 1, "by itself how far"),
            ("{ recursion: { count: 3, halting: {} }, layers: [\(attention)] }", "kl", 1, "by itself how far"),
            ("{ recursion: { count: 3 }, layers: [{ mixer: { type: gru } }] }", "kl", 1, "use cache full"),
            (
                "{ recursion: { count: 3 }, layers: [{ mixer: { type: attention, head_count: 2, window: 3 } }] }", "kl",
                1,
                "has a window"
            ),
            (
                "{ recursion: { count: 3 }, layers: [\(attention)] }, \(attention)], skips: [{ from: 1, to: 5 }", "kl",
                1, "skips"
            ),
        ] as [(String, String, Int, String?)])
    func saysWhatCannotBeFollowed(layers: String, criterion: String, ranks: Int, message: String?) throws {
        let text = "{ vocabulary_size: 29, width: 8, layers: [\(Self.attention), \(layers)] }"
        let model = try Model(
            ConfigurationReader(YAMLConfiguration.parse(text, file: "model.yaml")), dataVocabularySize: nil)
        let problem = ExitRule(ExitRule.Criterion(rawValue: criterion)!).problem(model, rankCount: ranks)
        #expect(problem.map { $0.contains(message ?? "nothing") } == message.map { _ in true }, "\(problem ?? "none")")
    }
}
