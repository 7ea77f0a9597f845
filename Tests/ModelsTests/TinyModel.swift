import Autograd
import Kernels
import Models
import Tensors
import TestSupport

/// A configuration tree written as Swift literals.
enum Setting: ExpressibleByStringLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral {
    case word(String)
    case list([Setting])
    case section([(String, Setting)])

    init(stringLiteral value: String) { self = .word(value) }
    init(arrayLiteral elements: Setting...) { self = .list(elements) }
    init(dictionaryLiteral elements: (String, Setting)...) { self = .section(elements) }

    var node: ConfigurationNode {
        let location = SourceLocation(file: "test.yaml", line: 1, column: 1)
        switch self {
        case .word(let text): return ConfigurationNode(.scalar(text, quoted: false), at: location)
        case .list(let elements): return ConfigurationNode(.sequence(elements.map(\.node)), at: location)
        case .section(let entries):
            return ConfigurationNode(
                .mapping(entries.map { .init(key: $0.0, keyLocation: location, value: $0.1.node) }), at: location)
        }
    }
}

/// A hybrid of attention and LSTM with everything that a step can meet: dropout, an MLP, tied embeddings.
let hybrid: Setting = [
    "vocabulary_size": "37", "width": "24", "dropout": "0.1", "head_dropout": "0.1", "tie_embeddings": "true",
    "layers": [
        ["mixer": ["type": "attention", "head_count": "4"], "mlp": ["hidden_size": "40"]],
        ["mixer": ["type": "lstm"]],
    ],
]

/// One rank's model without a pipeline: forward, loss and gradients of one batch.
final class TinyModel {
    struct Outcome {
        var loss: Double
        /// By parameter and use-site.
        var gradients: [[[Float]]]
    }

    let model: Model
    let context: ComputeContext
    static let batch = 3, time = 20

    init(_ setting: Setting = hybrid, fillsWithNaN: Bool = true, threadCount: Int = 1) throws {
        context = ComputeContext(threadCount: threadCount, pool: StoragePool(fillsWithNaN: fillsWithNaN))
        model = try Model(ConfigurationReader(setting.node), dataVocabularySize: nil)
        for parameter in model.registry.parameters { parameter.materialize(seed: 3, context) }
    }

    static func tokens(seed: UInt64, vocabulary: Int = 37) -> [Int32] {
        Philox.words(PhiloxStream(seed: seed), count: batch * time).map { Int32($0 % UInt32(vocabulary)) }
    }

    /// Leaves no tape behind.
    func step(
        _ number: Int = 1, inputs: [Int32] = tokens(seed: 1), targets: [Int32] = tokens(seed: 2)
    ) -> Outcome {
        let tape = Tape(context)
        let pass = Pass(
            tape: tape, batch: Self.batch, time: Self.time, seed: 9, step: number,
            samples: (0..<Self.batch).map(UInt32.init), isTraining: true)
        var x = inputs.withUnsafeBufferPointer { model.embedding.forward($0.baseAddress!, pass) }
        for layer in model.hidden { x = layer.forward(Flow(x), carry: [], pass).0.activation }
        let loss = targets.withUnsafeBufferPointer {
            let scales = [Float](repeating: 1 / Float(Self.batch * Self.time), count: Self.batch * Self.time)
            return model.head.losses(Flow(x), targets: $0.baseAddress!, scales: scales, pass)[0]
        }
        tape.inputGradients()
        tape.weightGradients()
        let gradients = model.registry.parameters.map { $0.uses.map { $0.gradient(context).array } }
        for parameter in model.registry.parameters { for use in parameter.uses { use.resetGradient() } }
        return Outcome(loss: loss.total!, gradients: gradients)
    }
}
