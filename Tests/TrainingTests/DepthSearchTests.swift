import Autograd
import Communication
import Foundation
import Kernels
import Models
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// Chains of layers of a trained model.
@Suite struct DepthSearchTests {
    private static let model = """
        vocabulary_size: 29
        width: 12
        initializer_range: 0.3
        layers:
          - { mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 20 } }
          - { mixer: { type: gru, output_projection: true }, mlp: { hidden_size: 20 } }
          - { mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 20 } }
          - { mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 20 } }
        """

    private static func withSession(
        _ parallel: [String: String] = [:], _ body: @escaping @Sendable (Session) throws -> Void
    ) throws {
        let fixture = RunFixture(model: model, parallel: ["threads": "1"].merging(parallel) { $1 })
        _ = try InProcessWorld.run(size: 1) { try body(fixture.session($0)) }
    }

    private static func batches() -> [TokenBatch] {
        let fixture = RunFixture(model: model)
        return [fixture.tokens(step: 50), fixture.tokens(step: 51)]
    }

    /// The same units of work, so the same bits, chunks included.
    @Test(arguments: [1, 3]) func allLayersInOrderAreTheModel(chunks: Int) throws {
        try Self.withSession(["micro_batches": "2", "chunks": "\(chunks)"]) { session in
            let runner = try PathRunner(model: session.model, context: session.context)
            func loss(_ path: [Int]) -> Session.Evaluation {
                runner.evaluate(Self.batches(), path: path, microBatchCount: 2, chunkCount: chunks)
            }
            let expected = try session.evaluate(Self.batches(), isStream: false)
            #expect(loss([0, 1, 2, 3]) == expected)
            // Each of these is another function.
            let others = [[0, 1, 2], [0, 1, 3, 2], [0, 1, 2, 2, 3], [1, 0, 2, 3]].map { loss($0).loss }
            #expect(Set(others + [expected.loss]).count == 5)
        }
    }

    /// A repeated layer keeps state once for every position in the chain: whole sequences and chunks agree.
    @Test func stateBelongsToThePosition() throws {
        try Self.withSession { session in
            let runner = try PathRunner(model: session.model, context: session.context)
            let path = [0, 1, 1, 3, 0, 0]
            func loss(chunks: Int) -> Double {
                runner.evaluate(Self.batches(), path: path, microBatchCount: 1, chunkCount: chunks).loss
            }
            #expect(abs(loss(chunks: 4) - loss(chunks: 1)) < 1e-5 * loss(chunks: 1))
        }
    }

    /// Repeating a layer is a model in which it stands twice.
    @Test func aRepeatedLayerIsALayerMore() throws {
        try Self.withSession { session in
            let runner = try PathRunner(model: session.model, context: session.context)
            let chain = runner.evaluate(Self.batches(), path: [0, 2, 2], microBatchCount: 1, chunkCount: 1)
            let attention = "{ mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 20 } }"
            let fixture = RunFixture(
                model: """
                    vocabulary_size: 29
                    width: 12
                    layers:
                      - \(attention)
                      - recursion: { count: 2 }
                        layers:
                          - \(attention)
                    """, parallel: ["threads": "1", "micro_batches": "1"])
            let weights = Dictionary(
                uniqueKeysWithValues: session.model.registry.parameters.map { ($0.name, $0.value.array) })
            _ = try InProcessWorld.run(size: 1) { communicator in
                let other = try fixture.session(communicator)
                for parameter in other.model.registry.parameters {
                    let name = parameter.name.replacing("layers.1", with: "layers.2")
                    parameter.value.copy(from: weights[name]!, count: parameter.value.count)
                    parameter.valueChanged()
                }
                let expected = try other.evaluate(Self.batches(), isStream: false)
                #expect(chain == expected)
            }
        }
    }

    /// Layer 2 does nothing; the search finds that out, and that nothing is lost without it.
    @Test(arguments: DepthSearch.Reward.allCases) func findsThatALayerIsIdle(reward: DepthSearch.Reward) throws {
        try Self.withSession { session in
            for name in ["self_attn.o_proj", "mlp.down_proj"] {
                let parameter = session.model.registry.parameter(named: "model.layers.2.\(name).weight")!
                parameter.value.fill(0)
                parameter.valueChanged()
            }
            let runner = try PathRunner(model: session.model, context: session.context)
            let batches = Self.answered(runner, Self.batches())
            var options = DepthSearch.Options(reward: reward)
            options.simulations = 60
            let search = DepthSearch(runner: runner, options: options, rowLimit: 4)
            let outcomes = search.run(batches, limit: 8)
            #expect(outcomes.map(\.sample) == Array(0..<8))
            for outcome in outcomes {
                #expect(outcome.pathCount > 20)
                switch reward {
                case .correct:
                    #expect(outcome.path.count < 4, "sample \(outcome.sample): \(outcome.path)")
                    #expect(outcome.full.isCorrect && outcome.score.isCorrect)
                case .loss:
                    // At least as good as leaving out the idle layer.
                    let gain = exp(-outcome.score.meanLoss) - exp(-outcome.full.meanLoss)
                    #expect(gain >= 0 && gain - 0.1 * Double(outcome.path.count) / 4 >= -0.1 * 3 / 4)
                }
            }
            #expect(search.run(batches, limit: 8) == outcomes)
            options.seed = 2
            #expect(DepthSearch(runner: runner, options: options, rowLimit: 4).run(batches, limit: 8) != outcomes)
            // Who else is in a batch shows in nothing.
            #expect(Array(search.run(batches, limit: 3)) == Array(outcomes.prefix(3)))
        }
    }

    /// Targets that the whole model gets right: one in each sequence.
    private static func answered(_ runner: PathRunner, _ batches: [TokenBatch]) -> [TokenBatch] {
        batches.map { batch in
            var targets = [Int32](repeating: -1, count: batch.targets.count)
            for row in 0..<batch.rows {
                let last = (row + 1) * batch.time - 1
                targets[last] = (0..<Int32(RunFixture.vocabulary)).first { id in
                    var one = [Int32](repeating: -1, count: batch.targets.count)
                    one[last] = id
                    let probe = TokenBatch(
                        rows: batch.rows, time: batch.time, inputs: batch.inputs, targets: one,
                        restarts: batch.restarts)
                    return runner.evaluate([probe], path: [0, 1, 2, 3], microBatchCount: 1, chunkCount: 1).hits == 1
                }!
            }
            return TokenBatch(
                rows: batch.rows, time: batch.time, inputs: batch.inputs, targets: targets, restarts: batch.restarts)
        }
    }

    @Test func neverWorseThanTheModel() throws {
        try Self.withSession { session in
            let runner = try PathRunner(model: session.model, context: session.context)
            for simulations in [1, 2, 15] {
                var options = DepthSearch.Options(reward: .loss)
                options.simulations = simulations
                for outcome in DepthSearch(runner: runner, options: options, rowLimit: 3).run(Self.batches()) {
                    #expect(outcome.score.meanLoss <= outcome.full.meanLoss)
                    #expect(simulations > 1 || outcome.path == [0, 1, 2, 3])
                }
            }
        }
    }

    @Test func modelsThatCannotBeTakenApartAreRefused() throws {
        try Self.withSession { session in
            let runner = try PathRunner(model: session.model, context: session.context)
            #expect(throws: RunError.self) { try runner.check([0, 4]) }
        }
        let fixture = RunFixture(
            model: """
                vocabulary_size: 29
                width: 12
                skips: [{ from: 0, to: 2 }]
                layers:
                  - { mixer: { type: gru }, repeat: 2 }
                """)
        _ = try InProcessWorld.run(size: 1) { communicator in
            let session = try fixture.session(communicator)
            #expect(throws: RunError.self) { try PathRunner(model: session.model, context: session.context) }
        }
    }
}
