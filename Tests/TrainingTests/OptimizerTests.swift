import Autograd
import Communication
import Kernels
import Models
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// Three steps of every optimiser against the formulas of torch.optim, written out in Double.
@Suite struct OptimizerTests {
    private let context = ComputeContext()
    private let start = randomFloats(37, seed: 1)
    private let gradients = (0..<3).map { randomFloats(37, seed: 10 + $0) }
    private let rates = [0.1, 0.05, 0.2]
    private let scale = 0.75

    private func configuration(_ settings: String) throws -> OptimizerConfiguration {
        let text = """
            train: { steps: 3, batch_size: 1, sequence_length: 1 }
            learning_rate: { peak: 1 }
            optimizer: { \(settings) }
            """
        return try RunConfiguration(ConfigurationReader(YAMLConfiguration.parse(text, file: "a.yaml"))).optimizer
    }

    private func run(
        _ settings: String, decays: Bool = true, from start: [Float]? = nil, gradients: [[Float]]? = nil,
        scale: Double? = nil
    ) throws -> [Float] {
        let (start, gradients, scale) = (start ?? self.start, gradients ?? self.gradients, scale ?? self.scale)
        let shape = Shape(start.count)
        let optimizer = Optimizer(try configuration(settings), context: context)
        let parameter = Parameter(name: "w", shape: shape, initializer: .constant(0), decays: decays)
        parameter.materialize(seed: 1, context)
        parameter.value.copy(from: start, count: start.count)
        optimizer.prepare(parameter)
        let version = parameter.version
        for (i, values) in gradients.enumerated() {
            let gradient = context.tensor(shape, .gradients)
            gradient.copy(from: values, count: values.count)
            optimizer.update(parameter, gradient: TensorPiece(of: gradient), scale: scale, rate: rates[i], step: i + 1)
        }
        #expect(parameter.version == version + 3, "packed copies must learn that they are stale")
        #expect(Set(optimizer.state["w"]!.keys) == Set(optimizer.stateNames))
        return parameter.value.array
    }

    /// Rules of a parameter's own: a multiple of the rate, and steps by sign that no clipping, decay or rate touches.
    @Test func rulesOfAParametersOwn() throws {
        func moved(_ rule: UpdateRule, rate: Double) throws -> [Float] {
            let optimizer = Optimizer(try configuration("type: adamw, weight_decay: 0.1"), context: context)
            let parameter = Parameter(
                name: "w", shape: Shape(start.count), initializer: .constant(0), decays: true, updateRule: rule)
            parameter.materialize(seed: 1, context)
            parameter.value.copy(from: start, count: start.count)
            optimizer.prepare(parameter)
            #expect(optimizer.state.isEmpty == !parameter.hasGradient)
            let gradient = context.tensor(parameter.shape, .gradients)
            gradient.copy(from: gradients[0], count: start.count)
            gradient.pointer[0] = 0
            optimizer.update(parameter, gradient: TensorPiece(of: gradient), scale: scale, rate: rate, step: 1)
            return parameter.value.array
        }
        assertSameBits(
            "ten times the rate", try moved(.optimizer(rateFactor: 1), rate: 0.5),
            try moved(.optimizer(rateFactor: 10), rate: 0.05))
        let signs = start.indices.map { i in i == 0 ? start[0] : start[i] - (gradients[0][i] > 0 ? 0.25 : -0.25) }
        assertSameBits("signs", signs, try moved(.sign(step: 0.25), rate: 0.5))
    }

    private func expected(_ update: (inout Double, Double, Double, Int, inout [Double]) -> Void) -> [Float] {
        start.indices.map { i in
            var (value, state) = (Double(start[i]), [0.0, 0.0])
            for step in 1...3 { update(&value, Double(gradients[step - 1][i]) * scale, rates[step - 1], step, &state) }
            return Float(value)
        }
    }

    private func power(_ base: Double, _ exponent: Int) -> Double { (0..<exponent).reduce(1) { p, _ in p * base } }

    private func adam(decoupled: Double, l2: Double, _ b1: Double, _ b2: Double, _ epsilon: Double) -> [Float] {
        expected { value, g, rate, step, state in
            value *= 1 - rate * decoupled
            let gradient = g + l2 * value
            state[0] = b1 * state[0] + (1 - b1) * gradient
            state[1] = b2 * state[1] + (1 - b2) * gradient * gradient
            let (m, v) = (state[0] / (1 - power(b1, step)), state[1] / (1 - power(b2, step)))
            value -= rate * m / (v.squareRoot() + epsilon)
        }
    }

    private func sgd(_ momentum: Double, nesterov: Bool, l2: Double) -> [Float] {
        expected { value, g, rate, step, state in
            let gradient = g + l2 * value
            // torch starts the buffer with the first gradient, which is what a zero buffer gives too.
            state[0] = momentum * state[0] + gradient
            value -= rate * (nesterov ? gradient + momentum * state[0] : state[0])
        }
    }

    // Three steps round to about 1e-7 of the value each.
    private let ratio = 1e-6

    @Test func adamVariants() throws {
        assertClose(
            "adamw", adam(decoupled: 0.1, l2: 0, 0.8, 0.9, 1e-3),
            try run("type: adamw, betas: [0.8, 0.9], epsilon: 1e-3, weight_decay: 0.1"), ratio: ratio)
        assertClose(
            "adam", adam(decoupled: 0, l2: 0.1, 0.9, 0.95, 1e-8), try run("type: adam, weight_decay: 0.1"), ratio: ratio
        )
        assertClose("adamw by default", adam(decoupled: 0.01, l2: 0, 0.9, 0.95, 1e-8), try run(""), ratio: ratio)
    }

    @Test func sgdVariants() throws {
        assertClose("plain", sgd(0, nesterov: false, l2: 0), try run("type: sgd"), ratio: ratio)
        assertClose(
            "momentum", sgd(0.9, nesterov: false, l2: 0.1), try run("type: sgd, momentum: 0.9, weight_decay: 0.1"),
            ratio: ratio)
        assertClose(
            "nesterov", sgd(0.9, nesterov: true, l2: 0), try run("type: sgd, momentum: 0.9, nesterov: true"),
            ratio: ratio)
    }

    /// Values that torch 2.13 gave in float64.
    @Test(
        arguments: [
            (
                "type: adamw, betas: [0.8, 0.9], epsilon: 1e-3, weight_decay: 0.1",
                [0.7760083257309579, -0.4828318499320668, 0.1772287123479711]
            ),
            ("type: adam, weight_decay: 0.1", [0.7276447452003245, -0.44975234761061156, 0.15903300119686534]),
            ("type: sgd, momentum: 0.9, nesterov: true", [0.89381, -0.54654, 0.38897]),
        ] as [(String, [Float])])
    func stepsAreThoseOfTorch(settings: String, expected: [Float]) throws {
        let got = try run(
            settings, from: [1, -0.5, 0.25], gradients: [[0.3, -0.2, 0.1], [-0.1, 0.4, 0.2], [0.05, 0.05, -0.6]],
            scale: 1)
        assertClose(settings, expected, got, ratio: ratio)
    }

    @Test func normsAndBiasesAreNotDecayed() throws {
        let settings = "type: adamw, betas: [0.8, 0.9], epsilon: 1e-3, weight_decay: 0.1"
        assertClose(
            "no decay", adam(decoupled: 0, l2: 0, 0.8, 0.9, 1e-3), try run(settings, decays: false), ratio: ratio)
    }

    /// With plain SGD at rate 1 the update is the clipped gradient: its norm is the limit, and nothing
    /// is scaled below it.
    @Test(arguments: [0.01, 0.9, 1.1]) func clippingBoundsTheGlobalNorm(share: Double) throws {
        /// The norm before clipping, and that of the update.
        func step(_ optimizer: String) throws -> (norm: Double, moved: Double) {
            let fixture = RunFixture(
                model: RunFixture.hybrid, parallel: ["micro_batches": "2", "threads": "1"], optimizer: optimizer)
            let parts = try InProcessWorld.run(size: 2) { communicator -> (Double, Double) in
                let session = try fixture.session(communicator)
                let before = session.heldParameters.map(\.parameter.value.array)
                let norm = try session.trainStep(fixture.tokens(step: 1), step: 1, rate: 1).gradientNorm
                var squares = 0.0
                for ((index, parameter), old) in zip(session.heldParameters, before)
                where session.tied.owner(index) == session.rank {
                    for (a, b) in zip(old, parameter.value.array) { squares += Double(a - b) * Double(a - b) }
                }
                return (norm, squares)
            }
            #expect(parts[0].0 == parts[1].0)
            return (parts[0].0, (parts[0].1 + parts[1].1).squareRoot())
        }
        // Differences of values round the updates.
        let free = try step("{ type: sgd }")
        #expect(abs(free.moved / free.norm - 1) < 1e-4)
        let clipped = try step("{ type: sgd, clip_norm: \(share * free.norm) }")
        #expect(clipped.norm == free.norm)
        #expect(abs(clipped.moved / (min(share, 1) * free.norm) - 1) < 1e-4)
    }

    @Test(arguments: [
        (
            "type: adamw, momentum: 0.9",
            "a.yaml:3:27: unknown key 'momentum' in 'optimizer'; allowed: type, betas, epsilon, weight_decay, clip_norm"
        ),
        ("type: sgd, nesterov: true", "a.yaml:3:35: 'optimizer.nesterov': needs momentum above 0"),
    ])
    func badSettingsAreExplained(settings: String, text: String) {
        let got = message {
            let source = """
                train: { steps: 3, batch_size: 1, sequence_length: 1 }
                learning_rate: { peak: 1 }
                optimizer: { \(settings) }
                """
            let reader = try ConfigurationReader(YAMLConfiguration.parse(source, file: "a.yaml"))
            _ = try RunConfiguration(reader)
            try reader.finish()
        }
        #expect(got == text)
    }
}
