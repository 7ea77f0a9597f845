import Communication
import Foundation
import Models
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// `train.objective`: what is masked, what is scored, and that no model is shown what it is to predict.
@Suite struct TrainingObjectiveTests {
    private static let length = 5
    private static let prefix = TrainingObjective.prefix(length: length, maskedWeight: 0.25, maskShare: 0.3)
    /// 28 characters; the mask makes them `RunFixture.vocabulary`.
    private static let text = String(repeating: "sphinx of black quartz judge my vow\n", count: 40)

    /// A memory that reads its prefix first, among causal layers; dropout everywhere.
    private static func model(prefix: Int, dropout: Double = 0.1) -> String {
        """
        vocabulary_size: 29
        width: 12
        dropout: \(dropout)
        head_dropout: \(dropout)
        tie_embeddings: true
        layers:
          - { mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 20 } }
          - { mixer: { type: jrt, head_count: 2, feature_dim: 4, enc_length: \(prefix) }, mlp: { hidden_size: 16 } }
          - { mixer: { type: gru } }
          - { mixer: { type: jrt, head_count: 1, feature_dim: 3, enc_length: \(prefix) } }
        """
    }

    private static func data(
        _ objective: TrainingObjective, sampling: DataConfiguration.Sampling = .random, seed: UInt64 = 3
    ) throws -> DataSet {
        let directory = TemporaryDirectory()
        let path = directory.file("text.txt", text)
        defer { withExtendedLifetime(directory) {} }
        return try DataSet(
            .files(
                DataConfiguration(
                    format: .characters, source: .cut([path], shares: [0.9, 0.1]), sampling: sampling,
                    sequenceLength: 11, batchSize: 5)), seed: seed, objective: objective)
    }

    // MARK: Batches

    /// Against the batch of the same step without an objective.
    @Test(arguments: [DataConfiguration.Sampling.random, .stream])
    func prefixMasksTokensAndScoresThem(sampling: DataConfiguration.Sampling) throws {
        let (plain, data) = (
            try Self.data(.nextToken, sampling: sampling), try Self.data(Self.prefix, sampling: sampling)
        )
        #expect(plain.symbolCount == 28 && data.symbolCount == 29)
        var places: Set<Int> = []
        for step in 1...20 {
            let (original, batch) = (plain.trainingBatch(step: step), data.trainingBatch(step: step))
            #expect(original.prefix == nil && batch.prefix == .init(length: Self.length, weight: 0.25))
            #expect(batch.targetCount == 5 * (11 - Self.length))
            // round(0.3 · 5) = 2 of each row
            #expect(batch.prefixTargetCount == 5 * 2)
            for index in batch.inputs.indices {
                if index % 11 >= Self.length {
                    #expect(batch.inputs[index] == original.inputs[index])
                    #expect(batch.targets[index] == original.targets[index])
                } else if batch.targets[index] < 0 {
                    #expect(batch.inputs[index] == original.inputs[index])
                } else {
                    #expect(batch.inputs[index] == 28 && batch.targets[index] == original.inputs[index])
                    places.insert(index)
                }
            }
        }
        #expect(places.count == 5 * Self.length, "every token of a prefix is masked now and then")
    }

    @Test func validationAfterAPrefixMasksNothing() throws {
        let (plain, data) = (try Self.data(.nextToken), try Self.data(Self.prefix))
        let pairs = zip(try plain.evaluationBatches(split: .valid), try data.evaluationBatches(split: .valid))
        for (original, batch) in pairs {
            #expect(batch.prefix == nil && batch.inputs == original.inputs)
            for index in batch.targets.indices {
                #expect(batch.targets[index] == (index % 11 < Self.length ? -1 : original.targets[index]))
            }
        }
    }

    @Test func maskedScoresMaskedTokensOnly() throws {
        let objective = TrainingObjective.masked(share: 0.15)
        let (plain, data) = (try Self.data(.nextToken), try Self.data(objective))
        func check(_ original: TokenBatch, _ batch: TokenBatch) {
            #expect(batch.prefix == nil)
            for row in 0..<5 {
                let tokens = (row * 11..<(row + 1) * 11).filter { original.targets[$0] >= 0 }
                let masked = (row * 11..<(row + 1) * 11).filter { batch.targets[$0] >= 0 }
                #expect(masked.count == (tokens.isEmpty ? 0 : max(1, Int((0.15 * Double(tokens.count)).rounded()))))
                #expect(Set(masked).isSubset(of: tokens))
                for index in row * 11..<(row + 1) * 11 {
                    let isMasked = masked.contains(index)
                    #expect(batch.inputs[index] == (isMasked ? 28 : original.inputs[index]))
                    #expect(batch.targets[index] == (isMasked ? original.inputs[index] : -1))
                }
            }
        }
        for step in 1...5 { check(plain.trainingBatch(step: step), data.trainingBatch(step: step)) }
        let covers = (
            Array(try plain.evaluationBatches(split: .valid)), Array(try data.evaluationBatches(split: .valid))
        )
        for (original, batch) in zip(covers.0, covers.1) { check(original, batch) }
        // A resumed run, and every validation, sees the same masks; other seeds and steps others.
        #expect(try Self.data(objective).trainingBatch(step: 4).inputs == data.trainingBatch(step: 4).inputs)
        #expect(try data.evaluationBatches(split: .valid).map(\.inputs) == covers.1.map(\.inputs))
        func masks(_ batch: TokenBatch) -> [Bool] { batch.inputs.map { $0 == 28 } }
        #expect(masks(data.trainingBatch(step: 1)) != masks(data.trainingBatch(step: 2)))
        #expect(masks(data.trainingBatch(step: 1)) != masks(try Self.data(objective, seed: 4).trainingBatch(step: 1)))
        #expect(masks(data.trainingBatch(step: 1)) != masks(covers.1[0]))
    }

    /// A loss over no token would read as a perfect one.
    @Test func validationNeedsATokenAfterThePrefix() throws {
        let directory = TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        let train = directory.file("train.txt", Self.text), valid = directory.file("valid.txt", "sphinx")
        let data = try DataSet(
            .files(
                DataConfiguration(
                    format: .characters, source: .files(train: [train], valid: [valid], test: []), sequenceLength: 11,
                    batchSize: 5)), seed: 1, objective: Self.prefix)
        #expect(
            throws: DataError.splitTooShort(
                "valid", tokens: 6, needed: 7, reason: "a prefix of 5, then one input and one target")
        ) { _ = try data.evaluationBatches(split: .valid) }
    }

    // MARK: Loss

    /// Logits `[B·T, V]`, the step's result, and all gradients, of one step without an update.
    private static func step(
        _ batch: TokenBatch, model: String
    ) throws -> (logits: [Float], result: Session.StepResult, gradients: [Float]) {
        try InProcessWorld.run(size: 1) { communicator in
            let session = try RunFixture(model: model, parallel: ["micro_batches": "2", "threads": "1"])
                .session(communicator)
            session.runtime.capturedLogits = session.context.tensor(Shape(batch.rows * batch.time, 29))
            var gradients: [Float] = []
            let result = try session.trainStep(batch, step: 1, rate: 0) { found in
                gradients = found.sorted { $0.key < $1.key }.flatMap(\.value.array)
            }
            return (session.runtime.capturedLogits!.array, result, gradients)
        }[0]
    }

    /// In Double, from the logits: the mean over next tokens, and 0.25 · the mean over masked tokens.
    @Test func lossIsThatOfTheDefinition() throws {
        let batch = try Self.data(Self.prefix).trainingBatch(step: 1)
        let (logits, result, _) = try Self.step(batch, model: Self.model(prefix: Self.length))
        var (next, masked): ([Double], [Double]) = ([], [])
        for (index, target) in batch.targets.enumerated() where target >= 0 {
            let row = logits[index * 29..<(index + 1) * 29].map(Double.init)
            let loss = log(row.reduce(0) { $0 + exp($1) }) - row[Int(target)]
            if index % 11 < Self.length { masked.append(loss) } else { next.append(loss) }
        }
        #expect(next.count == 30 && masked.count == 10)
        #expect(abs(result.loss - next.reduce(0, +) / 30) < 1e-6)
        #expect(abs(result.auxiliary["masked_token"]! - 0.25 * masked.reduce(0, +) / 10) < 1e-6)
        #expect(result.objective == result.loss + result.auxiliary["masked_token"]!)
    }

    /// The gradient is that of a batch with the next tokens alone + 0.25 · that of one with the masked tokens alone.
    @Test func gradientIsTheWeightedSum() throws {
        let batch = try Self.data(Self.prefix).trainingBatch(step: 1)
        func part(_ isCounted: (Int) -> Bool) throws -> (Session.StepResult, [Float]) {
            let targets = batch.targets.enumerated().map { isCounted($0.offset % 11) ? $0.element : -1 }
            let part = TokenBatch(
                rows: batch.rows, time: batch.time, inputs: batch.inputs, targets: targets, restarts: batch.restarts)
            let (_, result, gradients) = try Self.step(part, model: Self.model(prefix: Self.length))
            return (result, gradients)
        }
        let (_, whole, gradients) = try Self.step(batch, model: Self.model(prefix: Self.length))
        let (next, nextGradients) = try part { $0 >= Self.length }
        let (masked, maskedGradients) = try part { $0 < Self.length }
        #expect(whole.loss == next.loss && whole.auxiliary["masked_token"] == 0.25 * masked.loss)
        assertClose(
            "gradients", zip(nextGradients, maskedGradients).map { $0 + 0.25 * $1 }, gradients, ratio: 1e-5)
    }

    /// Changing the token after a scored position leaves its logits, and so its loss, bitwise alone. In the prefix, where
    /// nothing is scored but what a mask hides, it does not.
    @Test func scoredPositionsDoNotSeeTheirTargets() throws {
        let batch = try Self.data(Self.prefix).trainingBatch(step: 1)
        let model = Self.model(prefix: Self.length, dropout: 0)
        let before = try Self.step(batch, model: model).logits
        for place in 1..<11 {
            var inputs = batch.inputs
            for row in 0..<5 { inputs[row * 11 + place] = (inputs[row * 11 + place] + 1) % 28 }
            let changed = TokenBatch(
                rows: 5, time: 11, inputs: inputs, targets: batch.targets, restarts: batch.restarts,
                prefix: batch.prefix)
            let after = try Self.step(changed, model: model).logits
            for row in 0..<5 {
                for position in 0..<place {
                    let logits = (row * 11 + position) * 29..<(row * 11 + position + 1) * 29
                    let isSame = before[logits] == after[logits]
                    #expect(isSame == (place >= Self.length), "a change at \(place), position \(position)")
                }
            }
        }
    }

    // MARK: Ranks

    /// Promise P1, with dropout; chunks that the prefix ends in the middle of, where no layer reads it first.
    @Test(arguments: [1, 3]) func ranksLeaveNoTrace(chunks: Int) throws {
        let data = try Self.data(Self.prefix)
        let validation = Array(try data.evaluationBatches(split: .valid).prefix(2))
        var batches = Dictionary(uniqueKeysWithValues: (1...3).map { ($0, data.trainingBatch(step: $0)) })
        (batches[50], batches[51]) = (validation[0], validation[1])
        func result(ranks: Int, _ settings: [String: String] = [:]) throws -> RunResult {
            let shape = ["micro_batches": "3", "chunks": "\(chunks)", "threads": "1"]
            return try RunFixture(
                model: Self.model(prefix: chunks == 1 ? Self.length : 0), parallel: shape.merging(settings) { $1 }
            ).train(ranks: ranks) { [batches] in batches[$0]! }
        }
        let reference = try result(ranks: 1)
        #expect(Set(reference.losses).count == 3)
        let variants: [(Int, [String: String])] = [
            (1, ["threads": "2"]), (2, ["schedule": "zb_h1"]), (3, ["rematerialize": "always"]),
            (4, ["schedule": "gpipe"]),
        ]
        for (ranks, settings) in variants {
            let differences = try result(ranks: ranks, settings).differences(from: reference)
            #expect(differences.isEmpty, "\(ranks) ranks, \(settings): \(differences)")
        }
    }
}
