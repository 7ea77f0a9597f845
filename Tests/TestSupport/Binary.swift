import Foundation
import Glibc

/// The built `seqtrain`, as a process or as a job under mpirun.
public enum Binary {
    /// `SEQTRAIN_BINARY`, or the executable that the package manager put beside the test bundle.
    public static let path: String = {
        if let path = ProcessInfo.processInfo.environment["SEQTRAIN_BINARY"] { return path }
        return built("seqtrain")
    }()

    private static let bundle =
        (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]

    /// Another executable of this package, from the directory of the test bundle.
    public static func built(_ name: String) -> String {
        URL(fileURLWithPath: bundle).deletingLastPathComponent().appendingPathComponent(name).path
    }

    /// mpirun on the search path; nil where there is none, for `.enabled(if:)`.
    public static let mpirun: String? = {
        (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
            .map { "\($0)/mpirun" }.first { access($0, X_OK) == 0 }
    }()

    /// Root of the package, for files that tests read.
    public static let packageRoot: String = {
        URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().path
    }()

    /// What lets Open MPI run as root and with more ranks than cores; other launchers ignore it.
    static let launchEnvironment = [
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    ]

    /// Runs to the end.
    ///
    /// - Parameters:
    ///   - ranks: nil runs the binary itself, a number runs `mpirun -n ranks --oversubscribe` over it.
    ///   - environment: added to that of the test process.
    ///   - timeout: seconds, after which every process of the command is killed.
    /// - Throws: `BinaryError` when it cannot be started.
    @discardableResult
    public static func run(
        _ arguments: [String], ranks: Int? = nil, environment: [String: String] = [:], directory: String? = nil,
        timeout: Double = 60
    ) throws -> CommandResult {
        try start(arguments, ranks: ranks, environment: environment, directory: directory).wait(timeout: timeout)
    }

    /// Starts without waiting, for tests that signal the job while it runs.
    ///
    /// - Parameters:
    ///   - launcher: further options of mpirun.
    ///   - path: another executable instead of `seqtrain`.
    public static func start(
        _ arguments: [String], ranks: Int? = nil, launcher: [String] = [], environment: [String: String] = [:],
        directory: String? = nil, path: String = path
    ) throws -> RunningCommand {
        guard access(path, X_OK) == 0 else {
            throw BinaryError(description: "\(path) is missing; build the product 'seqtrain' or set SEQTRAIN_BINARY")
        }
        var command = [path] + arguments
        var additions = environment
        if let ranks {
            guard let mpirun else { throw BinaryError(description: "there is no mpirun on the search path") }
            command = [mpirun, "-n", "\(ranks)", "--oversubscribe"] + launcher + command
            additions.merge(launchEnvironment) { mine, _ in mine }
        }
        return try RunningCommand(command, environment: additions, directory: directory)
    }
}

/// How a command ended.
public struct CommandResult: Sendable {
    /// Exit status, or 128 + the signal that ended it.
    public let status: Int32
    public let output: String
    public let errorOutput: String
    /// Whether it had to be killed.
    public let timedOut: Bool
    public let seconds: Double
}

public struct BinaryError: Error, CustomStringConvertible {
    public let description: String
}

/// A process in a group of its own, with its output going to files: pipes could fill up and block it.
public final class RunningCommand {
    public let processIdentifier: pid_t
    private let outputPath, errorPath: String
    private let start = ContinuousClock.now

    init(_ command: [String], environment additions: [String: String], directory: String?) throws {
        let base = FileManager.default.temporaryDirectory.appendingPathComponent("seqtrain-test-\(UUID().uuidString)")
            .path
        (outputPath, errorPath) = (base + ".out", base + ".err")

        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, outputPath, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, errorPath, O_WRONLY | O_CREAT | O_TRUNC, 0o600)

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        posix_spawnattr_setpgroup(&attributes, 0)
        // Test runners may block signals in their threads; the child must start with none blocked.
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK))

        // posix_spawn's own change of directory is a GNU extension that Glibc's module map hides.
        let command = (directory.map { ["/usr/bin/env", "--chdir=\($0)"] } ?? []) + command
        let environment = ProcessInfo.processInfo.environment.merging(additions) { $1 }
        var arguments: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) } + [nil]
        var variables: [UnsafeMutablePointer<CChar>?] = environment.map { strdup("\($0)=\($1)") } + [nil]
        defer { for text in arguments + variables { free(text) } }
        var pid: pid_t = 0
        let failure = posix_spawn(&pid, command[0], &actions, &attributes, &arguments, &variables)
        guard failure == 0 else {
            throw BinaryError(description: "\(command[0]): \(String(cString: strerror(failure)))")
        }
        processIdentifier = pid
    }

    /// Waits for the end, or kills everything that the command started.
    public func wait(timeout: Double = 60) -> CommandResult {
        var status = ended(within: timeout)
        let timedOut = status == nil
        if timedOut {
            // mpirun puts each rank in a group of its own and ends them on SIGTERM; who stays is killed one by one.
            let family = tree()
            kill(-processIdentifier, SIGTERM)
            status = ended(within: 3)
            kill(-processIdentifier, SIGKILL)
            let alive = Set(Self.processes())
            for process in family where alive.contains(process) { kill(process.pid, SIGKILL) }
            if status == nil { status = ended(within: 5) }
        }
        defer {
            unlink(outputPath)
            unlink(errorPath)
        }
        let elapsed = (ContinuousClock.now - start).components
        return CommandResult(
            status: status.map(Self.exitStatus) ?? 128 + SIGKILL, output: Self.text(outputPath),
            errorOutput: Self.text(errorPath), timedOut: timedOut,
            seconds: Double(elapsed.seconds) + Double(elapsed.attoseconds) * 1e-18)
    }

    /// What it has printed so far.
    public var outputSoFar: String { Self.text(outputPath) }
    public var errorOutputSoFar: String { Self.text(errorPath) }

    /// Sends a signal to the process itself; mpirun forwards SIGUSR1, SIGUSR2 and SIGTERM's effect to its ranks.
    public func signal(_ signal: Int32) { kill(processIdentifier, signal) }

    /// Living descendants, in order of their identifiers; `name` keeps those with that executable name,
    /// `seqtrain` for the ranks under mpirun.
    public func descendants(named name: String? = nil) -> [pid_t] {
        tree().filter { name == nil || $0.name == name }.map(\.pid).sorted()
    }

    /// The process that is this rank of the job, while it lives.
    public func process(ofRank rank: Int) -> pid_t? {
        descendants(named: "seqtrain").first { pid in
            Self.text("/proc/\(pid)/environ").split(separator: "\0").contains("OMPI_COMM_WORLD_RANK=\(rank)")
        }
    }

    private func tree() -> [Process] {
        let processes = Self.processes()
        var found: Set<pid_t> = [processIdentifier]
        var count = 0
        while found.count > count {
            count = found.count
            found.formUnion(processes.filter { found.contains($0.parent) }.map(\.pid))
        }
        return processes.filter { $0.pid != processIdentifier && found.contains($0.pid) }
    }

    /// The wait status, or nil when it is still running after `seconds`.
    private func ended(within seconds: Double) -> Int32? {
        let deadline = ContinuousClock.now + .seconds(seconds)
        var pause: useconds_t = 1000
        while true {
            var status: Int32 = 0
            if waitpid(processIdentifier, &status, WNOHANG) == processIdentifier { return status }
            if ContinuousClock.now >= deadline { return nil }
            usleep(pause)
            pause = min(20_000, pause * 2)
        }
    }

    /// Equal only to itself: a recycled identifier has another start time.
    private struct Process: Hashable {
        let pid: pid_t
        let name: String
        let startTime: Substring
        let parent: pid_t

        static func == (a: Process, b: Process) -> Bool { a.pid == b.pid && a.startTime == b.startTime }
        func hash(into hasher: inout Hasher) { hasher.combine(pid) }
    }

    /// All processes, from `/proc/*/stat`: `pid (name) state parent ...`, the start time being field 22.
    private static func processes() -> [Process] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { entry in
            guard let pid = pid_t(entry),
                let stat = try? String(contentsOfFile: "/proc/\(entry)/stat", encoding: .utf8),
                let open = stat.firstIndex(of: "("), let close = stat.lastIndex(of: ")")
            else { return nil }
            let fields = stat[stat.index(after: close)...].split(separator: " ")
            guard fields.count > 19, let parent = pid_t(fields[1]) else { return nil }
            return Process(
                pid: pid, name: String(stat[stat.index(after: open)..<close]), startTime: fields[19], parent: parent)
        }
    }

    private static func exitStatus(_ status: Int32) -> Int32 {
        let signal = status & 0x7f
        return signal == 0 ? (status >> 8) & 0xff : 128 + signal
    }

    private static func text(_ path: String) -> String {
        String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self)
    }
}
