import Autograd
import Communication
import Kernels
import Models
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// Students of few shared blocks that learn a teacher's activations.
@Suite struct DistillationTests {
    private static let block = "mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 20 }"

    private static func model(_ layers: String) -> String {
        """
        vocabulary_size: 29
        width: 12
        initializer_range: 0.2
        layers:
        \(layers)
        """
    }

    private static let teacher = model("  - { \(block), repeat: 6 }")
    /// Blocks of two, three and one application.
    private static let student = model(
        """
          - recursion: { count: 2 }
            layers:
              - { \(block), layer_scale: 0.5, depth_conditioning: true }
          - recursion: { count: 3 }
            layers:
              - { \(block), layer_scale: 0.5, depth_conditioning: true }
          - { \(block) }
        """)

    /// A student with the teacher's layers, each its own block.
    private static func configuration(_ settings: String) throws -> DistillationConfiguration {
        let text = """
            train: { steps: 40, batch_size: 5, sequence_length: 11 }
            learning_rate: { peak: 0.01 }
            distill: { teacher: none\(settings) }
            """
        let reader = try ConfigurationReader(YAMLConfiguration.parse(text, file: "run.yaml"))
        return try RunConfiguration(reader).distillation!
    }

    private static func withDistiller(
        _ student: String = student, _ settings: String = "", copiesTeacher: Bool = false,
        _ body: @escaping @Sendable (Distiller, Session) throws -> Void
    ) throws {
        _ = try InProcessWorld.run(size: 1) { communicator in
            let teacher = try RunFixture(model: teacher, seed: 3).session(communicator)
            let session = try RunFixture(
                model: student, parallel: ["threads": "1", "micro_batches": "2"],
                optimizer: "{ type: adamw, clip_norm: 1.0 }"
            ).session(communicator)
            if copiesTeacher {
                for (own, other) in zip(session.model.registry.parameters, teacher.model.registry.parameters) {
                    own.value.copy(from: other.value)
                    own.valueChanged()
                }
            }
            let distiller = try Distiller(
                session: session, teacher: Teacher(model: teacher.model, context: teacher.context),
                configuration: try configuration(settings))
            try withExtendedLifetime(teacher) { try body(distiller, session) }
        }
    }

    @Test func blocksStandForTheirApplications() throws {
        try Self.withDistiller { distiller, _ in #expect(distiller.ranges == [0..<2, 2..<5, 5..<6]) }
    }

    @Test func weaningEndsAfterItsShareOfStageOne() throws {
        let configuration = try Self.configuration(", block_steps: 20, teacher_forcing: 0.5")
        for step in 1...12 {
            #expect(abs(configuration.forcing(step: step) - max(0, 1.1 - 0.1 * Double(step))) < 1e-12)
        }
        #expect(try Self.configuration("").blockSteps == 20)
        #expect(try Self.configuration(", teacher_forcing: 0").forcing(step: 1) == 0)
    }

    /// In both stages, and while they mix: along the gradient the loss rises by its squared length.
    @Test(arguments: [1, 4, 9, 30]) func gradientsAreThoseOfTheLoss(step: Int) throws {
        try Self.withDistiller(Self.student, ", block_steps: 20") { distiller, session in
            let batch = RunFixture(model: Self.student).tokens(step: 1)
            // Small branches would leave little to see.
            let parameters = session.model.registry.parameters.filter {
                $0.name.hasPrefix("model.layers")
            }
            let loss = distiller.accumulateGradients(batch, step: step)
            var gradients: [String: [Float]] = [:]
            for parameter in session.model.registry.parameters {
                var sum = [Float](repeating: 0, count: parameter.shape.count)
                for use in parameter.uses {
                    for (i, g) in use.gradient(session.context).array.enumerated() { sum[i] += g }
                }
                gradients[parameter.name] = sum
            }
            #expect(gradients["lm_head.weight"]!.allSatisfy { $0 == 0 })
            #expect(gradients["model.embed_tokens.weight"]!.allSatisfy { $0 == 0 })
            func moved(_ parameter: Parameter, by factor: Double) -> Double {
                let saved = parameter.value.array
                for (i, g) in gradients[parameter.name]!.enumerated() {
                    parameter.value.pointer[i] += Float(factor * Double(g))
                }
                parameter.valueChanged()
                defer {
                    parameter.value.copy(from: saved, count: saved.count)
                    parameter.valueChanged()
                }
                let moved = distiller.accumulateGradients(batch, step: step)
                return moved
            }
            for parameter in parameters {
                let square = gradients[parameter.name]!.reduce(0.0) { $0 + Double($1) * Double($1) }
                #expect(square > 0, "\(parameter.name)")
                let length = parameter.value.array.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
                let factor = 1e-2 * max(length, 0.01) / square.squareRoot()
                let slope = (moved(parameter, by: factor) - moved(parameter, by: -factor)) / (2 * factor)
                #expect(
                    abs(slope - square) < 2e-2 * square + 1e-6 * loss / factor,
                    "\(parameter.name): \(slope), not \(square)")
            }
        }
    }

    @Test(arguments: [1, 30]) func theTeacherItselfHasNoLoss(step: Int) throws {
        try Self.withDistiller(Self.teacher, ", block_steps: 20", copiesTeacher: true) { distiller, session in
            let batch = RunFixture(model: Self.teacher).tokens(step: 1)
            #expect(distiller.ranges.count == 6)
            #expect(distiller.accumulateGradients(batch, step: step) == 0)
            let errors = distiller.evaluate([batch])
            #expect(errors.allSatisfy { $0.error == 0 && $0.square > 0 })
        }
    }

    /// Both stages lower what they are after, and leave embedding and head alone.
    @Test func trainingLowersTheLoss() throws {
        try Self.withDistiller(Self.student, ", block_steps: 20") { distiller, session in
            let fixture = RunFixture(model: Self.student)
            func frozen() -> [[Float]] {
                (session.model.embedding.uses + session.model.head.uses).map { $0.value.array }
            }
            func error() -> Double { distiller.evaluate([fixture.tokens(step: 90)]).reduce(0) { $0 + $1.error } }
            let (before, start) = (frozen(), error())
            var losses: [Double] = []
            for step in 1...40 {
                losses.append(try distiller.trainStep(fixture.tokens(step: step % 4), step: step, rate: 0.01).loss)
                if step == 20 { #expect(error() < 0.7 * start) }
            }
            #expect(losses[38] < 0.9 * losses[20])
            #expect(error() < 0.5 * start)
            #expect(frozen() == before)
        }
    }

    @Test func studentsThatDoNotFitAreRefused() throws {
        for (student, word) in [
            (Self.model("  - { \(Self.block), repeat: 5 }"), "unrolls to 5 layers, the teacher has 6"),
            ("tie_embeddings: true\nhead_bias: true\n" + Self.teacher, "'lm_head.bias' [29] of the student"),
        ] {
            do {
                try Self.withDistiller(student) { _, _ in }
                Issue.record("nothing was thrown; expected \(word)")
            } catch {
                #expect("\(error)".contains(word), "\(error)")
            }
        }
    }

    /// Three groups of like layers: the cut after the fourth has the most across it, then that after the second.
    @Test func phasesAreCutWhereLayersDiffer() {
        let group = [0, 0, 1, 1, 2, 2, 2, 2]
        let phases = LayerPhases(
            distances: group.map { a in group.map { a == $0 ? 0.01 : 0.5 + 0.1 * Double(abs(a - $0)) } })
        #expect(phases.phases(fraction: 0.1) == [0..<2, 2..<4, 4..<8])
        #expect(phases.phases(fraction: 0.2) == [0..<4, 4..<8])
        #expect(phases.phases(fraction: 0.1, minimumSize: 3) == [0..<4, 4..<8])
        #expect(phases.phases(fraction: 1) == [0..<8])
    }
}
