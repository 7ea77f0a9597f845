import Models

/// `distill:` — what `seqtrain distill` fits the model to.
///
/// | key | meaning | default |
/// | --- | --- | --- |
/// | `teacher` | checkpoint of a model with as many layers as the student unrolls to (or a run directory, for its latest) | required |
/// | `teacher_config` | configuration file that describes it | `config.yaml` in the checkpoint |
/// | `block_steps` | steps of stage 1, each block alone; the rest of `train.steps` trains all together | half |
/// | `teacher_forcing` | share of stage 1 over which the blocks are weaned from the teacher's activations | 0.25 |
///
/// Relative paths start at the configuration file's directory, or else at the current one. Other commands ignore the section.
public struct DistillationConfiguration: Sendable {
    public var teacher: String
    public var teacherConfig: String?
    public var blockSteps: Int
    public var teacherForcing: Double

    init(_ reader: ConfigurationReader, directory: String, steps: Int) throws(ConfigurationError) {
        teacher = FileSystem.beside(directory, try reader.string("teacher"))
        teacherConfig = try reader.optionalString("teacher_config").map { FileSystem.beside(directory, $0) }
        blockSteps = try reader.int("block_steps", default: steps / 2, in: 0...steps)
        teacherForcing = try reader.double("teacher_forcing", default: 0.25, in: 0...1)
    }

    /// Weight of the loss from the teacher's activations, `ρ`: from 1 to 0 over the beginning of stage 1.
    ///
    /// - Parameter step: counted from 1.
    public func forcing(step: Int) -> Double {
        let span = teacherForcing * Double(blockSteps)
        return span > 0 ? max(0, 1 - Double(step - 1) / span) : 0
    }
}
