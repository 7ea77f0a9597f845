import Autograd
import Foundation
import Models
import Tensors

/// A frozen plain model whose activations are the targets of a distillation.
public final class Teacher {
    public let model: Model
    private let context: ComputeContext
    /// Layers between embedding and head.
    public var depth: Int { model.hidden.count }

    /// A model whose parameters are in place.
    ///
    /// - Throws: `RunError.usage` when its layers are not a plain chain of one width.
    public init(model: Model, context: ComputeContext) throws(RunError) {
        _ = try PathRunner(model: model, context: context)
        self.model = model
        self.context = context
    }

    /// Reads configuration and weights.
    convenience init(_ configuration: DistillationConfiguration, data: DataSet, context: ComputeContext) throws {
        let path = try CheckpointStore.resolved(configuration.teacher)
        let description = configuration.teacherConfig ?? path + "/config.yaml"
        guard FileSystem.exists(description) else {
            throw RunError.usage(
                "the teacher \(path) has no config.yaml; name the file that describes it in distill.teacher_config")
        }
        let root = try ConfigurationReader(YAMLConfiguration.load(description, plan: nil, overrides: []))
        let reader = try root.section("model", required: true)
        let model = try Model(reader, dataVocabularySize: data.vocabulary.count)
        try reader.finish()
        let vocabulary = path + "/vocabulary.json"
        if FileSystem.exists(vocabulary) {
            try data.vocabulary.requireSame(
                as: Vocabulary(JSON(parsing: FileSystem.read(vocabulary)), path: vocabulary))
        }
        let parameters = model.registry.parameters
        for parameter in parameters { parameter.materialize(seed: 0, context) }
        _ = try WeightInitialization(InitializationConfiguration(checkpoint: path, method: .same), seed: 0)
            .apply(to: model, held: parameters)
        try self.init(model: model, context: context)
    }

    /// What enters each layer and what leaves the last, `depth + 1` tensors `[B·T, D]`.
    ///
    /// - Parameter inputs: `[B, T]`.
    func activations(_ inputs: [Int32], batch: Int) -> [Tensor] {
        let pass = Pass(
            tape: Tape(context, isRecording: false), batch: batch, time: inputs.count / batch,
            samples: (0..<UInt32(batch)).map { $0 }, isTraining: false)
        var flow = Flow(inputs.withUnsafeBufferPointer { model.embedding.forward($0.baseAddress!, pass) })
        var result = [flow.activation.value]
        for layer in model.hidden {
            (flow, _) = layer.forward(flow, carry: [], pass)
            result.append(flow.activation.value)
        }
        return result
    }
}
