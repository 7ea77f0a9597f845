import Autograd
import Kernels
import Models
import Tensors

/// Uniform in `[−scale, scale)`, the same for the same seed.
public func randomFloats(_ count: Int, seed: UInt64, scale: Float = 1) -> [Float] {
    var values = [Float](repeating: 0, count: count)
    Philox.fillUniform(
        &values, low: -scale, high: scale, stream: PhiloxStream(seed: seed), count: count,
        threads: ThreadPool(threadCount: 1))
    return values
}

extension ConfigurationReader {
    /// A section of plain words, as `key: value` lines would give it; `a.b` is the key `b` of section `a`.
    public convenience init(words: [String: String]) throws(ConfigurationError) {
        try self.init(Self.mapping(words))
    }

    private static func mapping(_ words: [String: String]) -> ConfigurationNode {
        let location = SourceLocation(file: "test.yaml", line: 1, column: 1)
        let sections = Dictionary(grouping: words) { $0.key.split(separator: ".")[0] }
        return ConfigurationNode(
            .mapping(
                sections.sorted { $0.key < $1.key }.map { key, entries in
                    let inner = entries.map { (String($0.key.dropFirst(key.count + 1)), $0.value) }
                    let value =
                        inner.contains { $0.0.isEmpty }
                        ? ConfigurationNode(.scalar(inner[0].1, quoted: false), at: location)
                        : mapping(Dictionary(uniqueKeysWithValues: inner))
                    return .init(key: String(key), keyLocation: location, value: value)
                }), at: location)
    }
}

/// One mixer with its parameters, run on plain arrays.
final class MixerBench {
    /// A tensor by name.
    struct Named: Equatable {
        var name: String
        var shape: Shape
        var values: [Float]
    }

    /// Inputs of a run, and the gradients that its outputs receive.
    struct Problem {
        var batch: Int
        var time: Int
        /// Position of the first token.
        var offset = 0
        /// Index of the first sequence in the batch; keys dropout.
        var firstSample = 0
        /// `[B, T, D]`.
        var x: [Float]
        var carry: [Named] = []
        /// `[B, T, D']`.
        var outputGradient: [Float]
        /// One for each tensor of the final carry; empty for none.
        var carryGradient: [[Float]] = []
    }

    struct Outcome {
        var output: [Float]
        var carryOut: [Named]
        var inputGradient: [Float] = []
        var carryInGradient: [[Float]] = []
        var parameterGradient: [Named] = []
    }

    let context: ComputeContext
    let mixer: any SequenceMixer
    let registry = ParameterRegistry()
    let width: Int
    private let stabilizer: MixerCase.Stabilizer?

    init(_ mixerCase: MixerCase, threadCount: Int = 1) throws {
        context = ComputeContext(threadCount: threadCount, pool: StoragePool(fillsWithNaN: true))
        width = mixerCase.width
        stabilizer = mixerCase.stabilizer
        let reader = try ConfigurationReader(words: mixerCase.settings)
        guard let type = SequenceMixers.all.first(where: { $0.name == mixerCase.type }) else {
            fatalError("no mixer is called '\(mixerCase.type)'")
        }
        // Larger than a model would draw them, so that gates and scores leave their linear range and differences of the
        // loss stand out from its rounding.
        let deviation: Float = 0.4
        let builder = LayerBuilder(
            registry: registry, prefix: "m", layerIndex: 1, inputWidth: width,
            defaults: LayerDefaults(initializerRange: Double(deviation)))
        mixer = try type.init(reader, builder)
        try reader.finish()
        for parameter in registry.parameters {
            parameter.materialize(seed: 5, context)
            var values = parameter.value.array
            switch parameter.initializer {
            // Biases that start at zero would hide a missing one.
            case .constant: values = randomFloats(values.count, seed: 6, scale: 0.3)
            case .normal(let drawn) where drawn < deviation: values = values.map { $0 * deviation / drawn }
            default: continue
            }
            parameter.value.copy(from: values, count: values.count)
            parameter.valueChanged()
        }
    }

    var uses: [ParameterUse] { registry.parameters.flatMap(\.uses) }

    private func pass(_ tape: Tape, _ problem: Problem, _ positions: Range<Int>) -> Pass {
        Pass(
            tape: tape, batch: problem.batch, time: positions.count,
            positionOffset: problem.offset + positions.lowerBound, seed: 1, step: 1,
            samples: (problem.firstSample..<problem.firstSample + problem.batch).map(UInt32.init), isTraining: true)
    }

    private func tensor(_ values: [Float], _ shape: Shape) -> Tensor {
        let result = context.tensor(shape)
        result.copy(from: values, count: values.count)
        return result
    }

    /// Rows of `positions` of every sequence.
    private static func slice(_ x: [Float], batch: Int, time: Int, _ positions: Range<Int>) -> [Float] {
        let width = x.count / (batch * time)
        return (0..<batch).flatMap { b in
            x[(b * time + positions.lowerBound) * width..<(b * time + positions.upperBound) * width]
        }
    }

    private static func place(
        _ part: [Float], _ positions: Range<Int>, of x: inout [Float], batch: Int, time: Int
    ) {
        let width = x.count / (batch * time)
        for b in 0..<batch {
            for i in 0..<positions.count * width {
                x[(b * time + positions.lowerBound) * width + i] = part[b * positions.count * width + i]
            }
        }
    }

    /// Forward, and backward when `withGradients`, in chunks that start at 0 and at every cut; the carry
    /// goes up from chunk to chunk, its gradient down.
    ///
    /// - Parameter betweenHalves: called after the input gradients, before the weight gradients.
    func run(
        _ problem: Problem, cuts: [Int] = [], withGradients: Bool = true, betweenHalves: () -> Void = {}
    ) -> Outcome {
        struct Unit { var tape: Tape, x: Variable, y: Variable, carryIn: Carry, carryOut: Carry, positions: Range<Int> }
        let (batch, time) = (problem.batch, problem.time)
        let bounds = [0] + cuts + [time]
        let startsWithCarry = !problem.carry.isEmpty
        var carry: Carry = problem.carry.map {
            CarryTensor(name: $0.name, variable: Variable(tensor($0.values, $0.shape)))
        }
        var units: [Unit] = []
        var outcome = Outcome(
            output: [Float](repeating: .nan, count: batch * time * mixer.outputWidth), carryOut: [])
        for (start, end) in zip(bounds, bounds.dropFirst()) {
            let tape = Tape(context, isRecording: withGradients)
            let rows = Self.slice(problem.x, batch: batch, time: time, start..<end)
            let x = Variable(tensor(rows, Shape(batch * (end - start), width)), needsGradient: withGradients)
            let carryIn = carry.map { $0.detached(needsGradient: withGradients) }
            let (y, carryOut) = mixer.forward(x, carry: carryIn, pass(tape, problem, start..<end))
            Self.place(y.value.array, start..<end, of: &outcome.output, batch: batch, time: time)
            carry = carryOut
            units.append(
                Unit(tape: tape, x: x, y: y, carryIn: carryIn, carryOut: carryOut, positions: start..<end))
        }
        outcome.carryOut = carry.map { Named(name: $0.name, shape: $0.variable.shape, values: $0.variable.value.array) }
        guard withGradients else { return outcome }

        outcome.inputGradient = [Float](repeating: .nan, count: problem.x.count)
        var carryGradient: [Tensor?] = problem.carryGradient.enumerated().map {
            tensor($1, carry[$0].variable.shape)
        }
        for unit in units.reversed() {
            let rows = Self.slice(problem.outputGradient, batch: batch, time: time, unit.positions)
            unit.y.accumulate(tensor(rows, unit.y.shape), context)
            for (out, gradient) in zip(unit.carryOut, carryGradient) {
                if let gradient { out.variable.accumulate(gradient, context) }
            }
            unit.tape.inputGradients()
            carryGradient = unit.carryIn.map { $0.variable.takeGradient() }
            Self.place(
                unit.x.takeGradient()!.array, unit.positions, of: &outcome.inputGradient, batch: batch, time: time)
        }
        if startsWithCarry { outcome.carryInGradient = carryGradient.map { $0?.array ?? [] } }
        betweenHalves()
        for unit in units.reversed() { unit.tape.weightGradients() }
        outcome.parameterGradient = parameterGradients()
        for use in uses { use.resetGradient() }
        return outcome
    }

    func parameterGradients() -> [Named] {
        uses.map { Named(name: $0.parameter.name, shape: $0.shape, values: $0.gradient(context).array) }
    }

    /// `Σ dy·y + Σ dcarry·carry` in Double: the scalar whose gradients `run` returns.
    func loss(_ problem: Problem) -> Double {
        let outcome = run(problem, withGradients: false)
        func dot(_ a: [Float], _ b: [Float]) -> Double { zip(a, b).reduce(0) { $0 + Double($1.0) * Double($1.1) } }
        return zip(problem.carryGradient, outcome.carryOut).reduce(dot(problem.outputGradient, outcome.output)) {
            $0 + dot($1.0, $1.1.values)
        }
    }

    /// Random inputs that continue a random past of `past` tokens (none when 0), with random gradients
    /// of outputs and final carry.
    func problem(batch: Int, time: Int, past: Int, seed: UInt64, inputScale: Float = 1) -> Problem {
        var problem = Problem(
            batch: batch, time: time, x: randomFloats(batch * time * width, seed: seed, scale: inputScale),
            outputGradient: randomFloats(batch * time * mixer.outputWidth, seed: seed + 1))
        if past > 0 {
            let before = Problem(
                batch: batch, time: past, x: randomFloats(batch * past * width, seed: seed + 2), outputGradient: [])
            problem.carry = run(before, withGradients: false).carryOut
            problem.offset = past
        }
        guard mixer.chunkingObstacle == nil else { return problem }
        let carryOut = run(problem, withGradients: false).carryOut
        problem.carryGradient = carryOut.enumerated().map {
            randomFloats($1.values.count, seed: seed + 3 + UInt64($0))
        }
        if let stabilizer {
            // Any loss of later outputs is blind to the scale of these, a random one is not.
            for (i, tensor) in carryOut.enumerated() where ([stabilizer.name] + stabilizer.scaled).contains(tensor.name)
            {
                problem.carryGradient[i] = [Float](repeating: 0, count: tensor.values.count)
            }
        }
        return problem
    }
}
