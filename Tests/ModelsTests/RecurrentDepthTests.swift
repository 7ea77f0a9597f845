import Autograd
import Kernels
import Models
import Testing

/// What a step runs of a recurrent depth.
@Suite struct RecurrentDepthTests {
    private func depth(_ settings: [String: String]) throws -> RecurrentDepth {
        let keys = settings.map { ($0.key, Setting.word($0.value)) }
        return try RecurrentDepth(
            ConfigurationReader(Setting.section([("depth", .section(keys))]).node), width: 8)
    }

    /// `1 + Poisson(λ)`, `λ` log-normal about 32: mean 33, variance 322.8, median 29.
    @Test func drawsHaveTheirMoments() throws {
        let whole = try depth(["mean": "32", "maximum": "1000"])
        let draws = (0..<20_000).map { whole.draw(PhiloxStream(seed: 3, c: UInt32($0))) }
        let count = Double(draws.count)
        let mean = Double(draws.reduce(0, +)) / count
        let variance = draws.reduce(0) { $0 + (Double($1) - mean) * (Double($1) - mean) } / count
        // Four standard errors: 0.13 of the mean; about 8 of the variance, whose tail is heavy.
        #expect(abs(mean - 33) < 0.5, "\(mean)")
        #expect(abs(variance - 322.8) < 32, "\(variance)")
        #expect(abs(draws.sorted()[draws.count / 2] - 29) <= 1)
        #expect(abs(Double(draws.count { $0 <= 8 }) / count - 0.014) < 0.004)
        #expect(abs(Double(draws.count { $0 > 64 }) / count - 0.058) < 0.007)
        // A maximum cuts draws down, and changes no other.
        let cut = try depth(["mean": "32", "maximum": "40"])
        for (step, draw) in draws.prefix(500).enumerated() {
            #expect(cut.draw(PhiloxStream(seed: 3, c: UInt32(step))) == min(draw, 40))
        }
    }

    /// The last iterations have the gradients; those before them are spread over the list.
    @Test(arguments: [(3, 2, 9), (4, 4, 4), (5, 1, 15), (2, 6, 6)])
    func aStepRunsItsIterations(mean: Int, backpropagated: Int, maximum: Int) throws {
        let depth = try depth(
            ["mean": "\(mean)", "backpropagated": "\(backpropagated)", "maximum": "\(maximum)"])
        let laps = (0..<maximum).map { DepthLap(depth: depth, index: $0, stream: 0) }
        for iterations in 1...maximum {
            let running = laps.indices.filter { laps[$0].runs(of: iterations) }
            #expect(running.count == iterations)
            let forward = running.filter { laps[$0].isForwardOnly }
            let withGradient = min(iterations, backpropagated)
            #expect(forward.count == iterations - withGradient)
            #expect(Array(running.suffix(withGradient)) == Array(maximum - withGradient..<maximum))
            // Half of the list has half of them, but for one.
            let half = depth.forwardOnlyCount / 2
            let early = forward.count { $0 < half }
            #expect(abs(early * depth.forwardOnlyCount - forward.count * half) <= depth.forwardOnlyCount)
        }
    }

    private static func model(_ recursion: Setting, initialization: Setting = "takase") -> Setting {
        [
            "vocabulary_size": "37", "width": "8", "initialization": initialization,
            "layers": [
                ["mixer": ["type": "attention", "head_count": "2"]],
                [
                    "recursion": recursion,
                    "layers": [
                        [
                            "repeat": "2", "mixer": ["type": "attention", "head_count": "2"],
                            "mlp": ["hidden_size": "6"],
                        ]
                    ],
                ],
            ],
        ]
    }

    /// 1 + 2 · 5 blocks deep, whichever iterations there are beyond the mean.
    @Test func matricesStartAsInTheCodesOfTheseModels() throws {
        let takase = try Model(
            ConfigurationReader(Self.model(["depth": ["mean": "5"]]).node), dataVocabularySize: nil)
        func initializer(_ model: Model, _ name: String) -> Initializer {
            model.registry.parameter(named: name)!.initializer
        }
        let deviation = Float((2.0 / 40).squareRoot()), last = Float((2.0 / 40 / 22).squareRoot())
        for name in ["model.embed_tokens", "model.layers.1.adapter", "model.layers.2.mlp.up_proj", "lm_head"] {
            #expect(initializer(takase, "\(name).weight") == .truncatedNormal(standardDeviation: deviation), "\(name)")
        }
        for name in ["model.layers.0.self_attn.o_proj", "model.layers.2.mlp.down_proj"] {
            #expect(initializer(takase, "\(name).weight") == .truncatedNormal(standardDeviation: last), "\(name)")
        }
        let glorot = try Model(
            ConfigurationReader(
                Self.model(["count": "2", "signals": ["step": "learned"]], initialization: "glorot_uniform").node),
            dataVocabularySize: nil)
        #expect(
            initializer(glorot, "model.layers.2.mlp.up_proj.weight") == .uniform(bound: Float(6.0 / 14).squareRoot()))
        #expect(
            initializer(glorot, "model.embed_tokens.weight") == .normal(standardDeviation: 1 / Float(8).squareRoot()))
    }

    @Test func whatDoesNotGoTogetherIsRefused() {
        let cases: [(recursion: Setting, named: String)] = [
            (["count": "2", "depth": ["mean": "4"]], "count"),
            (["count": "2", "sharing": "sequence", "halting": ["epsilon": "0.1"]], "halting"),
            (["count": "2", "signals": ["step": "sinus"]], "sinusoid"),
            (["depth": ["mean": "4", "maximum": "3"]], "maximum"),
        ]
        for (recursion, named) in cases {
            #expect {
                let reader = try ConfigurationReader(Self.model(recursion).node)
                _ = try Model(reader, dataVocabularySize: nil)
                try reader.finish()
            } throws: {
                "\($0)".contains(named)
            }
        }
    }
}
