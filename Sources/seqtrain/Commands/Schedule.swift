import ArgumentParser
import Foundation
import Pipeline
import Training

extension PlacementKind: ExpressibleByArgument {}

struct ScheduleCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "schedule", abstract: "Proves, times, draws and writes schedule files.",
        discussion: """
            seqtrain schedule write 1f1b --ranks 2 --micro-batches 4 > mine.sched     a file to start from
            seqtrain schedule verify mine.sched
            seqtrain schedule draw mine.sched --svg mine.svg

            A file is used with parallel.schedule: mine.sched. The examples in configs/schedules explain the format.
            """,
        subcommands: [Verify.self, Simulate.self, Draw.self, Write.self])

    struct Verify: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Proves a schedule, or names every broken rule with its line.")
        @Argument(help: "Schedule file.") var file: String

        func run() throws {
            let schedule = try ScheduleCommand.read(file)
            let shape = schedule.shape
            let counts = [
                (schedule.ranks.count, "rank"), (shape.stageCount, "stage"), (shape.microBatchCount, "micro-batch"),
                (shape.chunkCount, "chunk"), (shape.skips.count, "skip"),
                (schedule.ranks.reduce(0) { $0 + $1.count }, "action"),
            ].filter { $0.0 > 1 || ["rank", "stage", "micro-batch"].contains($0.1) }
            let words = counts.map { "\($0) \($1)" + ($0 == 1 ? "" : $1.hasSuffix("ch") ? "es" : "s") }
            print("legal: \(schedule.name), \(shape.purpose.rawValue), " + words.joined(separator: ", "))
        }
    }

    struct Simulate: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Predicts a step: time, bubble and memory.")
        @Argument(help: "Schedule file.") var file: String
        @OptionGroup var costs: CostOptions

        func run() throws {
            let schedule = try ScheduleCommand.read(file)
            let simulation = try Simulator.simulate(schedule, costs.model(schedule))
            print(
                "makespan \(format(simulation.makespan)) s, bubble \(format(100 * simulation.bubbleFraction)) %")
            for (rank, usage) in simulation.ranks.enumerated() {
                print(
                    "rank \(rank): bubble \(format(100 * simulation.bubbleFraction(rank: rank))) %, at most "
                        + "\(usage.peakUnits) \(usage.peakUnits == 1 ? "unit" : "units") alive")
            }
        }

        private func format(_ value: Double) -> String { String(format: "%.4g", value) }
    }

    struct Draw: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Draws the predicted step.")
        @Argument(help: "Schedule file.") var file: String
        @OptionGroup var costs: CostOptions
        @Option(help: ArgumentHelp("Write a picture instead of text.", valueName: "file.svg")) var svg: String?

        func run() throws {
            let schedule = try ScheduleCommand.read(file)
            let simulation = try Simulator.simulate(schedule, costs.model(schedule), keepsTimeline: true)
            guard let svg else { return print(ScheduleDrawing.text(schedule, simulation), terminator: "") }
            let panel = TimelinePicture.Panel(title: "predicted", timelines: simulation.timeline)
            try FileSystem.replace(svg, with: Array(TimelinePicture.svg([panel], title: schedule.name).utf8))
        }
    }

    struct Write: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Prints a generated schedule, to start from.")
        @Argument(help: "\(ScheduleCatalog.names.joined(separator: ", ")).") var name: String
        @Option(help: ArgumentHelp("Ranks of the pipeline.", valueName: "p")) var ranks: Int
        @Option(help: ArgumentHelp("Micro-batches per step.", valueName: "m")) var microBatches: Int
        @Option(help: ArgumentHelp("Slices of the sequence axis.", valueName: "k")) var chunks: Int = 1
        @Option(help: ArgumentHelp("Stages per rank, where the schedule leaves a choice.", valueName: "v"))
        var virtualStages: Int?
        @Option(
            help: ArgumentHelp("\(PlacementKind.allCases.map(\.rawValue).joined(separator: ", ")).", valueName: "kind"))
        var placement: PlacementKind?
        @Option(help: ArgumentHelp("Stages of a ring, in all.", valueName: "n")) var stages: Int?
        @Option(help: ArgumentHelp("Rings that the ranks form.", valueName: "n")) var rings: Int = 1
        @Flag(help: "With SEND, RECV and WAIT.") var lowered = false

        func validate() throws {
            for (option, value) in [
                ("--ranks", ranks), ("--micro-batches", microBatches), ("--chunks", chunks),
                ("--virtual-stages", virtualStages ?? 1), ("--stages", stages ?? 1), ("--rings", rings),
            ] where !(1...65535).contains(value) {
                throw ValidationError("\(option) needs a number from 1 to 65535, not \(value)")
            }
        }

        func run() throws {
            try ScheduleCommand.reporting {
                let schedule = try ScheduleCatalog.training(
                    name,
                    ScheduleRequest(
                        rankCount: ranks, virtualStages: virtualStages, placement: placement, stageCount: stages,
                        ringCount: rings, microBatchCount: microBatches, chunkCount: chunks))
                print(lowered ? try Lowering.lower(schedule).text : schedule.text, terminator: "")
            }
        }
    }

    /// What a unit of work and a message cost.
    struct CostOptions: ParsableArguments {
        @Option(help: ArgumentHelp("Forward of one unit in one stage.", valueName: "seconds")) var forward = 1.0
        @Option(help: ArgumentHelp("Input gradient.", valueName: "seconds")) var inputGradient = 1.0
        @Option(help: ArgumentHelp("Weight gradient.", valueName: "seconds")) var weightGradient = 1.0
        @Option(help: ArgumentHelp("Time of a message apart from its size.", valueName: "seconds")) var latency = 0.0
        @Option(help: ArgumentHelp("Of the transport.", valueName: "bytes per second")) var bandwidth = Double.infinity
        @Option(help: ArgumentHelp("Size of a message.", valueName: "bytes")) var bytes = 0

        func validate() throws {
            for (option, value) in [
                ("--forward", forward), ("--input-gradient", inputGradient), ("--weight-gradient", weightGradient),
                ("--latency", latency),
            ] where !(value >= 0 && value < .infinity) {
                throw ValidationError("\(option) needs a number of at least 0, not \(value)")
            }
            if !(bandwidth > 0) { throw ValidationError("--bandwidth needs a number above 0, not \(bandwidth)") }
            if bytes < 0 { throw ValidationError("--bytes needs a number of at least 0, not \(bytes)") }
        }

        func model(_ schedule: Schedule) -> CostModel {
            let stage = StageCost(
                forward: forward, inputGradient: inputGradient, weightGradient: weightGradient, outputBytes: bytes)
            return CostModel(
                stages: Array(repeating: stage, count: schedule.shape.stageCount),
                messages: MessageCost(latency: latency, bandwidth: bandwidth))
        }
    }

    /// Reads and proves a file; ends the process with status 2 if it cannot be read, 1 if it is not legal.
    private static func read(_ path: String) throws -> Schedule {
        let file = try reporting { try ScheduleFile(path: path, text: FileSystem.readText(path)) }
        try reporting(status: 1) { try file.verify() }
        return file.schedule
    }

    private static func reporting<Result>(status: Int32 = 2, _ body: () throws -> Result) throws -> Result {
        do {
            return try body()
        } catch {
            FileHandle.standardError.write(Data("\(error)\n".utf8))
            throw JobExit(code: status)
        }
    }
}
