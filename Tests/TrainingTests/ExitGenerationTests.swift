import Autograd
import Communication
import Glibc
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

    /// Against bookkeeping by hand: one carry for every slot and layer, and what the token leaves there set aside till it is
    /// through.
    @Test(arguments: ExitRule.Cache.allCases, [nil, 1, 2, 3, 4, 9])
    func cachesHoldWhatTheRuleSays(cache: ExitRule.Cache, slots: Int?) throws {
        let fixture = Self.fixture("recursive")
        var deeper = 0
        for threshold in Self.thresholds {
            let expected = try InProcessWorld.run(size: 1) { communicator -> (logits: [Float], iterations: [Int]) in
                let session = try fixture.session(communicator)
                session.fillByOrder()
                return Self.byHand(
                    session, Self.given, threshold: threshold, fills: cache == .latest, slots: slots ?? 4)
            }[0]
            let rule = ExitRule(.latentChange, threshold: threshold, cache: cache, slots: slots)
            let outcome = try Self.outcome(fixture, rule)
            #expect(outcome.logits[0] == expected.logits, "threshold \(threshold), \(expected.iterations)")
            // Tokens that go where one before them has not been.
            deeper += zip(expected.iterations, expected.iterations.dropFirst()).count { $0 < $1 }
        }
        #expect(deeper > 0)
    }

    /// Every criterion against its definition, at thresholds that some tokens meet.
    @Test(arguments: ExitRule.Criterion.allCases) func criteriaSayWhatTheyMean(criterion: ExitRule.Criterion) throws {
        let thresholds: [Double] =
            switch criterion {
            case .latentChange: [0.2, 0.4, 0.6, 0.8]
            case .cosine: [0.01, 0.05, 0.1, 0.3]
            case .entropyChange: [0.003, 0.01, 0.03, 0.1]
            case .kl, .minKL: [1e-3, 1e-2, 0.05, 0.2]
            case .argmaxStable: [0, 1, 2]
            case .confidence: [0.05, 0.1, 0.2, 0.4]
            }
        let fixture = Self.fixture("recursive")
        var means: Set<Double> = []
        for threshold in thresholds {
            let expected = try InProcessWorld.run(size: 1) { communicator -> (logits: [Float], iterations: [Int]) in
                let session = try fixture.session(communicator)
                session.fillByOrder()
                return Self.byHand(session, Self.given, criterion: criterion, threshold: threshold, fills: true)
            }[0]
            let outcome = try Self.outcome(fixture, ExitRule(criterion, threshold: threshold))
            #expect(outcome.logits[0] == expected.logits, "threshold \(threshold), \(expected.iterations)")
            means.insert(Double(expected.iterations.reduce(0, +)) / Double(expected.iterations.count))
        }
        #expect(means.contains { 1 < $0 && $0 < 4 }, "\(means)")
    }

    private static func softmax(_ logits: [Float]) -> [Double] {
        let powers = logits.map { exp(Double($0)) }
        return powers.map { $0 / powers.reduce(0, +) }
    }

    /// Of the states before and after every application so far, and what was predicted after each.
    private static func isSettled(
        _ criterion: ExitRule.Criterion, _ threshold: Double, _ states: [[Double]], _ predictions: [[Double]]
    ) -> Bool {
        let (s, before) = (states[states.count - 1], states[states.count - 2])
        func dot(_ a: [Double], _ b: [Double]) -> Double { zip(a, b).map { $0 * $1 }.reduce(0, +) }
        let p = predictions.last!
        func best(_ p: [Double]) -> Int { p.firstIndex(of: p.max()!)! }
        switch criterion {
        case .latentChange:
            let change = zip(s, before).map { $0 - $1 }
            return (dot(change, change) / dot(s, s)).squareRoot() < threshold
        case .cosine: return 1 - dot(s, before) / dot(s, s).squareRoot() / dot(before, before).squareRoot() < threshold
        case .confidence: return p.max()! > threshold
        case .argmaxStable:
            return predictions.reversed().prefix { best($0) == best(p) }.count > Int(threshold)
        case .entropyChange, .kl, .minKL: break
        }
        guard predictions.count > 1 else { return false }
        func filtered(_ p: [Double]) -> [Double] {
            guard criterion == .minKL else { return p }
            let kept = p.map { $0 < 0.1 * p.max()! ? 1 / Double(p.count) : $0 }
            return kept.map { $0 / kept.reduce(0, +) }
        }
        func entropy(_ p: [Double]) -> Double { -p.map { $0 * log($0) }.reduce(0, +) }
        let (last, now) = (filtered(predictions[predictions.count - 2]), filtered(p))
        if criterion == .entropyChange { return abs(entropy(now) - entropy(last)) < threshold }
        return zip(last, now).map { $0 * log($0 / $1) }.reduce(0, +) < threshold
    }

    private static func byHand(
        _ session: Session, _ tokens: [Int32], criterion: ExitRule.Criterion = .latentChange, threshold: Double,
        fills: Bool, slots: Int = 4
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
            var left: [Int: Carry] = [:]
            func slot(_ index: Int) -> Int {
                guard recursion.layers.contains(index) else { return index }
                return recursion.layers.lowerBound
                    + (index - recursion.layers.lowerBound) % (slots * recursion.blockLength)
            }
            func apply(_ index: Int) {
                let layer = model.layers[index] as! any HiddenLayer
                (flow, left[slot(index)]) = layer.forward(flow, carry: carries[slot(index)] ?? [], pass)
            }
            for index in 1..<recursion.layers.lowerBound { apply(index) }
            var (count, isOut) = (0, false)
            // By place in the block.
            var latest: [Int: Carry] = [:]
            var (states, predictions): ([[Double]], [[Double]]) = ([], [])
            for index in recursion.layers {
                let place = (index - recursion.layers.lowerBound) % recursion.blockLength
                if isOut {
                    guard fills, left[slot(index)] == nil else { continue }
                    let source = latest[place]!
                    left[slot(index)] = ["k", "v"].map { name in
                        let (whole, past) = (source[name]!.value, carries[slot(index)]?[name]?.value.array ?? [])
                        let entry = whole.array.suffix(whole.shape[2] * whole.shape[3])
                        let joined = context.tensor(
                            Shape(1, past.count / entry.count + 1, whole.shape[2], whole.shape[3]))
                        for (i, value) in (past + entry).enumerated() { joined.pointer[i] = value }
                        return CarryTensor(name: name, variable: Variable(joined))
                    }
                    continue
                }
                if index == recursion.layers.lowerBound { states = [flow.activation.value.array.map(Double.init)] }
                if place == 0 { count += 1 }
                apply(index)
                latest[place] = left[slot(index)]
                guard place == recursion.blockLength - 1 else { continue }
                states.append(flow.activation.value.array.map(Double.init))
                var ahead = flow
                for index in recursion.layers.upperBound..<model.layerCount - 1 {
                    ahead =
                        (model.layers[index] as! any HiddenLayer).forward(ahead, carry: carries[index] ?? [], pass).0
                }
                predictions.append(softmax(model.head.logits(ahead.activation, pass).array))
                isOut = isSettled(criterion, threshold, states, predictions)
            }
            for index in recursion.layers.upperBound..<model.layerCount - 1 { apply(index) }
            iterations.append(count)
            logits += model.head.logits(flow.activation, pass).array
            carries.merge(left) { $1 }
        }
        return (logits, iterations)
    }

    /// On a ring the applications of a layer share a rank, and so their slots.
    @Test(arguments: ["recursive", "depth"]) func slotsGoRoundRings(model: String) throws {
        for slots in [1, 2] {
            let rule = ExitRule(.latentChange, threshold: 0.5, slots: slots)
            let reference = try Self.outcome(Self.fixture(model), rule, promptCount: 2)
            let whole = try Self.outcome(
                Self.fixture(model), ExitRule(.latentChange, threshold: 0.5), promptCount: 2)
            #expect(reference != whole)
            // The depth's block of one layer makes two rings.
            for (ranks, settings) in Self.layouts where ranks == 1 || model == "recursive" && !settings.isEmpty {
                let outcome = try Self.outcome(Self.fixture(model, settings), rule, promptCount: 2, ranks: ranks)
                #expect(outcome == reference, "\(ranks) ranks")
            }
        }
    }

    // MARK: What cannot be

    private static let attention = "{ mixer: { type: attention, head_count: 2 } }"

    @Test(
        arguments: [
            ("{ recursion: { count: 3 }, layers: [\(attention)] }", "latent_change", 4, nil, nil),
            ("{ recursion: { count: 3 }, layers: [\(attention)] }", "kl", 1, nil, nil),
            ("{ recursion: { count: 3 }, layers: [\(attention)] }", "kl", 2, nil, "generate with one rank"),
            (attention, "kl", 1, nil, "this model has 0 shared blocks"),
            ("{ recursion: { count: 3, router: {} }, layers: [\(attention)] }", "kl", 1, nil, "by itself how far"),
            ("{ recursion: { count: 3, halting: {} }, layers: [\(attention)] }", "kl", 1, nil, "by itself how far"),
            ("{ recursion: { count: 3 }, layers: [{ mixer: { type: gru } }] }", "kl", 1, nil, "use cache full"),
            (
                "{ recursion: { count: 3 }, layers: [{ mixer: { type: attention, head_count: 2, window: 3 } }] }", "kl",
                1, nil,
                "has a window"
            ),
            (
                "{ recursion: { count: 3 }, layers: [\(attention)] }, \(attention)], skips: [{ from: 1, to: 5 }", "kl",
                1, nil, "skips"
            ),
            ("{ recursion: { count: 3 }, layers: [\(attention)] }", "cosine", 1, 2, nil),
            ("{ recursion: { count: 3 }, layers: [\(attention)] }", "cosine", 3, 2, "placement: ring"),
            (
                "{ recursion: { count: 3, share_key_values: true }, layers: [\(attention)] }", "cosine", 1, 2,
                "share_key_values"
            ),
        ] as [(String, String, Int, Int?, String?)])
    func saysWhatCannotBeFollowed(
        layers: String, criterion: String, ranks: Int, slots: Int?, message: String?
    ) throws {
        let text = "{ vocabulary_size: 29, width: 8, layers: [\(Self.attention), \(layers)] }"
        let model = try Model(
            ConfigurationReader(YAMLConfiguration.parse(text, file: "model.yaml")), dataVocabularySize: nil)
        let rule = ExitRule(ExitRule.Criterion(rawValue: criterion)!, slots: slots)
        let cuts = (0...ranks).map { $0 * model.layerCount / ranks }
        let problem = rule.problem(
            model, stageLayers: zip(cuts, cuts.dropFirst()).map { $0..<$1 }, placement: .contiguous(stageCount: ranks))
        #expect(problem.map { $0.contains(message ?? "nothing") } == message.map { _ in true }, "\(problem ?? "none")")
    }
}
