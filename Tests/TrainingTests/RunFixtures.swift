import Autograd
import Communication
import Kernels
import Models
import Pipeline
import Tensors
import Training

/// A run as its configuration file describes it.
struct RunFixture: Sendable {
    var model: String
    var parallel: [String: String] = ["threads": "1"]
    var optimizer = "{ type: adamw, weight_decay: 0.1, clip_norm: 0.5 }"
    var batch = 5
    var time = 11
    var seed = 7
    /// `train.initialize_from`, when it is set.
    var initialization: String?

    static let vocabulary = 29

    /// Attention, LSTM and GRU, dropout everywhere, tied embeddings: nine layers to cut.
    static let hybrid = """
        vocabulary_size: 29
        width: 12
        dropout: 0.1
        head_dropout: 0.1
        tie_embeddings: true
        layers:
          - repeat: 2
            layers:
              - { mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 20 } }
              - { mixer: { type: lstm, num_layers: 2, dropout: 0.1 } }
          - { mixer: { type: gru }, norm: layernorm, mlp: { type: gelu, hidden_size: 10 } }
        """

    var text: String {
        let parallel = parallel.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }.joined(separator: ", ")
        let source = initialization.map { ", initialize_from: \($0)" } ?? ""
        return """
            seed: \(seed)
            train: { steps: 100, batch_size: \(batch), sequence_length: \(time)\(source) }
            optimizer: \(optimizer)
            learning_rate: { schedule: constant, peak: 0.02 }
            parallel: { \(parallel) }
            model:
            \(model.split(separator: "\n").map { "  " + $0 }.joined(separator: "\n"))
            """
    }

    func session(_ communicator: any Communicator, ready: Bool = true) throws -> Session {
        let reader = try ConfigurationReader(YAMLConfiguration.parse(text, file: "run.yaml"))
        let run = try RunConfiguration(reader)
        let model = try Model(try reader.section("model"), dataVocabularySize: Self.vocabulary)
        try reader.finish()
        let session = try Session(run: run, model: model, communicator: communicator)
        if ready {
            session.prepareOptimizer()
            _ = try session.initializeParameters()
        }
        return session
    }

    /// Ragged: the end of some rows, and single targets here and there, do not count.
    func tokens(step: Int, restarts: Bool = true, rows: Int? = nil, time: Int? = nil) -> TokenBatch {
        let (rows, time) = (rows ?? batch, time ?? self.time)
        let words = Philox.words(PhiloxStream(seed: 100 + UInt64(step)), count: rows * time + 1)
        let ids = words.map { Int32($0 % UInt32(Self.vocabulary)) }
        var targets = Array(ids.dropFirst())
        for i in targets.indices where i / time % 3 == 1 && i % time > time / 2 || words[i] % 11 == 0 {
            targets[i] = -1
        }
        return TokenBatch(
            rows: rows, time: time, inputs: Array(ids.dropLast()), targets: targets,
            restarts: [Bool](repeating: restarts, count: rows))
    }
}

/// What a run came to; equality is that of bits.
struct RunResult: Sendable, Equatable {
    var losses: [UInt64] = []
    var norms: [UInt64] = []
    var evaluation: UInt64 = 0
    /// By canonical name, from every rank that holds it.
    var parameters: [String: [[UInt32]]] = [:]

    /// Names what differs from `reference`.
    func differences(from reference: RunResult) -> [String] {
        var found: [String] = []
        if losses != reference.losses {
            found.append(
                "losses \(losses.map(Double.init(bitPattern:))), not \(reference.losses.map(Double.init(bitPattern:)))")
        }
        if norms != reference.norms { found.append("gradient norms") }
        if evaluation != reference.evaluation { found.append("evaluation loss") }
        for (name, expected) in reference.parameters.sorted(by: { $0.key < $1.key }) {
            guard let copies = parameters[name] else { found.append("no rank holds \(name)"); continue }
            if copies.contains(where: { $0 != expected[0] }) { found.append(name) }
        }
        return found
    }
}

extension RunFixture {
    /// Three steps, with an evaluation after the second.
    ///
    /// - Parameters:
    ///   - isStream: whether batches continue each other.
    ///   - withGradients: those of a fourth step count, too.
    ///   - batch: of steps 1 to 4, and 50 and 51 for the evaluation; nil draws tokens.
    func train(
        ranks: Int, eagerLimit: Int = 4096, isStream: Bool = false, withGradients: Bool = false,
        batch: (@Sendable (Int) -> TokenBatch)? = nil
    ) throws -> RunResult {
        let batch = batch ?? { tokens(step: $0, restarts: !isStream || $0 == 1 || $0 >= 50) }
        let parts = try InProcessWorld.run(size: ranks, eagerLimit: eagerLimit, timeout: 60) {
            communicator -> RunResult in
            let session = try session(communicator)
            session.runtime.keepsCarryAcrossBatches = isStream
            var result = RunResult()
            for step in 1...3 {
                let outcome = try session.trainStep(batch(step), step: step, rate: 0.02)
                result.losses.append(outcome.objective.bitPattern)
                result.norms.append(outcome.gradientNorm.bitPattern)
                guard step == 2 else { continue }
                result.evaluation = try session.evaluate([batch(50), batch(51)], isStream: isStream).loss.bitPattern
            }
            for (_, parameter) in session.heldParameters {
                result.parameters[parameter.name] = [parameter.value.array.map(\.bitPattern)]
            }
            guard withGradients else { return result }
            _ = try session.trainStep(batch(4), step: 4, rate: 0) { gradients in
                for (index, parameter) in session.heldParameters {
                    result.parameters["gradient of " + parameter.name] = [gradients[index]!.array.map(\.bitPattern)]
                }
            }
            return result
        }
        var whole = parts[0]
        for part in parts.dropFirst() {
            guard part.losses == whole.losses, part.norms == whole.norms, part.evaluation == whole.evaluation else {
                return RunResult()  // ranks that disagree among themselves equal nothing
            }
            whole.parameters.merge(part.parameters) { $0 + $1 }
        }
        return whole
    }
}

extension RunFixture {
    /// Bytes of every rank's buffers after some steps, at their peak, and what the layout predicts.
    func peakBytes(ranks: Int, steps: Int = 2) throws -> [(measured: Int, predicted: Int)] {
        try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
            let session = try session(communicator)
            for step in 1...steps { _ = try session.trainStep(tokens(step: step), step: step, rate: 0.01) }
            return (session.context.pool.peakBytes, session.plan.layout.predictedPeakBytes[communicator.rank])
        }
    }
}

extension RunFixture {
    /// The logits after each whole sequence of `given`, which is fed as a prompt of `promptCount` tokens, the rest
    /// token by token.
    func lastLogits(_ given: [[Int32]], promptCount: Int, ranks: Int) throws -> [[Float]] {
        try InProcessWorld.run(size: ranks, timeout: 60) { communicator -> [[Float]] in
            let session = try session(communicator)
            session.materializeParameters()
            var positions = given.map { _ in promptCount }
            var logits = given.map { _ in [Float]() }
            let decoder = try StreamDecoder(
                model: session.model, stageLayers: session.plan.stageLayers, placement: session.plan.placement,
                prompts: given.map { Array($0[..<promptCount]) }, communicator: communicator, context: session.context
            ) { stream, values in
                logits[stream] = Array(values)
                defer { positions[stream] += 1 }
                return positions[stream] < given[stream].count ? given[stream][positions[stream]] : 0
            }
            for _ in promptCount...given[0].count { try decoder.advance() }
            _ = try decoder.drawnTokens()
            return logits
        }.first { !$0[0].isEmpty }!
    }
}

extension RunFixture {
    /// Losses of `steps`, from the start or from the checkpoint before them; `saves` leaves one after the last.
    func losses(
        _ steps: ClosedRange<Int>, ranks: Int, in directory: TemporaryDirectory, saves: Bool = false
    ) throws -> [Double] {
        let path = directory.path
        let text = directory.file("text.txt", String(repeating: "the quick brown fox jumps\n", count: 40))
        return try InProcessWorld.run(size: ranks, timeout: 60) { communicator in
            let session = try session(communicator, ready: false)
            session.prepareOptimizer()
            let data = DataConfiguration(
                format: .characters, source: .cut([text], shares: [1]), sampling: .random, sequenceLength: time,
                batchSize: batch)
            let store = try CheckpointStore(
                directory: path + "/run", session: session, data: try DataSet(data, seed: 1),
                resolvedConfiguration: "")
            if steps.lowerBound == 1 {
                session.materializeParameters()
            } else {
                let resumed = try store.resume()
                require(resumed?.step == steps.lowerBound - 1, "RunFixture: resumed after \(resumed?.step ?? 0)")
            }
            let losses = try steps.map { try session.trainStep(tokens(step: $0), step: $0, rate: 0.02).objective }
            if saves { _ = try store.save(step: steps.upperBound) }
            return losses
        }[0]
    }
}
