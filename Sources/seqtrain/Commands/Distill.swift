import ArgumentParser
import Communication
import Training

struct Distill: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Fit a model of few shared blocks to the activations of a trained one.",
        discussion: """
            The model of CONFIG is the student; distill.teacher names a checkpoint of the teacher, with as many layers as \
            the student unrolls to and the same embedding and head, which the student takes over. First each block \
            learns the layers it stands for by itself, then all learn together. With --phases nothing is trained: the \
            teacher's layers are cut where their outputs differ most, which says what blocks to write into model.layers. \
            In one process.
            """)
    @OptionGroup var job: JobOptions
    @Option(
        help: ArgumentHelp(
            "Show phases; a cut needs this part (0 to 1) of the differences between all layers.", valueName: "fraction")
    )
    var phases: Double?

    func validate() throws {
        if let phases, !(0...1 ~= phases) { throw ValidationError("--phases lies between 0 and 1, not \(phases)") }
    }

    func run() throws {
        let fraction = phases
        try job.run { job in
            if let fraction {
                for phase in try job.layerPhases(fraction: fraction) {
                    print("layers \(phase.lowerBound)-\(phase.upperBound - 1): recursion: { count: \(phase.count) }")
                }
                return
            }
            let (checkpoint, report) = try job.distill(display: ProgressDisplay())
            print(report)
            if let checkpoint { JobRunner.report("checkpoint \(checkpoint)") }
        }
    }
}
