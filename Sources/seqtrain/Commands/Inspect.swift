import ArgumentParser
import Communication
import Training

struct Describe: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Layers, shapes, parameters and FLOPs of a model.")
    @OptionGroup var job: JobOptions

    func run() throws {
        try job.run { job in
            let text = try job.description()
            if job.communicator.rank == 0 { print(text) }
        }
    }
}

struct Plan: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Cut, schedule, predicted step, bubble and memory; the best layouts. No training.",
        discussion: """
            Describes the configured layout, then measures the layers on this machine, searches replicas, stages per \
            rank, micro-batches, chunks, schedules and re-materialisation by simulation, and lists the best. Keys \
            that 'parallel' sets stay as they are, but for micro_batches and chunks.
            """)
    @OptionGroup var job: JobOptions
    @Option(help: ArgumentHelp("Plan for this many ranks.", valueName: "n"))
    var ranks: Int?
    @Option(help: ArgumentHelp("Memory of a rank, 8GiB for example; default: parallel.memory_limit."))
    var memory: String?
    @Option(help: ArgumentHelp("Write the best layout as a plan file for --plan.", valueName: "file.yaml"))
    var out: String?
    @Flag(help: "Only describe the configured layout.")
    var asConfigured = false

    func validate() throws {
        if let ranks, ranks < 1 { throw ValidationError("--ranks needs at least 1") }
        if let memory, ByteCount(memory) == nil {
            throw ValidationError("--memory '\(memory)' is not an amount of memory; write 8GiB or 512MiB")
        }
    }

    func run() throws {
        let options = self
        try job.run { job in
            let isReporter = job.communicator.rank == 0
            let layout = try job.layoutDescription(ranks: options.ranks)
            if isReporter { print(layout) }
            guard !options.asConfigured else { return }
            let text = try job.searchDescription(
                ranks: options.ranks, memory: options.memory.flatMap(ByteCount.init)?.bytes, out: options.out)
            if isReporter { print("\n" + text) }
        }
    }
}

struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Throughput of training steps.")
    @OptionGroup var job: JobOptions
    @Option(help: "Steps before the clock starts.")
    var warmup: Int = 3
    @Option(help: "Steps measured; the median counts.")
    var steps: Int = 10
    @Flag(help: "One JSON object on standard output.")
    var json = false

    func validate() throws {
        if warmup < 0 || steps < 1 { throw ValidationError("--warmup needs 0 or more, --steps 1 or more") }
    }

    func run() throws {
        let (warmup, steps, json) = (warmup, steps, json)
        try job.run { job in
            let result = try job.bench(warmup: warmup, steps: steps)
            if job.communicator.rank == 0 { print(json ? result.json.text : result.text) }
        }
    }
}

struct ProbeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "probe",
        abstract:
            "One forward and backward without an update, written as safetensors, to compare with another framework.")
    @OptionGroup var job: JobOptions
    @Option(help: ArgumentHelp("Where to write.", valueName: "file.safetensors"))
    var out: String
    @Option(help: ArgumentHelp("Take parameters (param.<name>) from this file.", valueName: "file.safetensors"))
    var params: String?
    @Option(help: ArgumentHelp("Take batch.inputs and batch.targets from this file.", valueName: "file.safetensors"))
    var batch: String?
    @Flag(help: "Accepted for clarity: the file is always the same for any number of ranks.")
    var ranksInvariant = false

    func run() throws {
        let (out, params, batch) = (out, params, batch)
        try job.run { try $0.probe(out: out, params: params, batch: batch) }
    }
}
