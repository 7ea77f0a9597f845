import CMPI
import Glibc
import Synchronization

/// This process's rank of an MPI job. The only Swift file that names MPI.
///
/// MPI is used for non-blocking point-to-point messages only. It is initialised with funneled threading: all calls
/// must come from the thread that called `start`.
public final class MPICommunicator: Communicator {
    public let rank: Int
    public let size: Int
    public let localRank: Int
    public let localSize: Int
    public let localCoreCount: Int
    public let largestTag: Int
    public let policy: WaitPolicy
    /// The largest byte count passed to MPI as a plain `int`; longer messages use a derived data type.
    private let narrowLimit: Int
    /// What other ranks have said since one of them ended the job.
    private let reports = Mutex<[RankReport]>([])

    /// Whether a launcher (mpirun, srun) started this process as a rank of a job. `SEQTRAIN_MPI=1` or `0` overrides.
    public static var launchedUnderMPI: Bool {
        switch getenv("SEQTRAIN_MPI").map({ String(cString: $0) }) {
        case "1": return true
        case "0": return false
        default:
            return ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE"].contains { (name: String) in getenv(name) != nil }
        }
    }

    /// The MPI library's name and version.
    public static var libraryVersion: String { text(capacity: 8192) { cmpi_library_version($0, $1) } }

    /// Initialises MPI; may be called once per process. Collective over the job.
    /// - Parameters:
    ///   - timeout: seconds a wait lasts before it fails.
    ///   - narrowLimit: lowered by tests to send through the data type for long messages without long messages.
    public static func start(
        timeout: Double = 300, narrowLimit: Int = Int(Int32.max)
    ) throws(CommunicationError) -> MPICommunicator {
        // The user's own setting wins. Yielding in each poll, Open MPI's habit when ranks outnumber cores, makes idle
        // polls look busy to `Backoff`, which does the yielding here: each waiter of 4 ranks on 2 cores took a third of
        // a core with it, 5 to 8 % without.
        setenv("OMPI_MCA_mpi_yield_when_idle", "0", 0)
        var world = cmpi_world()
        var function: UnsafePointer<CChar>?
        let code = cmpi_initialize(&world, &function)
        try check(code, function.map { String(cString: $0) } ?? "MPI_Init_thread")
        return MPICommunicator(world, timeout: timeout, narrowLimit: narrowLimit)
    }

    private init(_ world: cmpi_world, timeout: Double, narrowLimit: Int) {
        rank = Int(world.rank)
        size = Int(world.size)
        localRank = Int(world.local_rank)
        localSize = Int(world.local_size)
        localCoreCount = Int(world.local_core_count)
        largestTag = Int(world.largest_tag)
        self.narrowLimit = narrowLimit
        policy = WaitPolicy(timeout: timeout, oversubscribed: world.local_size > world.local_core_count)
    }

    /// Ends this rank's part of a job that went well, and finalises MPI. Collective; the communicator is dead afterwards.
    /// A rank whose work failed calls `abort` instead.
    public func finish() throws(CommunicationError) {
        let dropped = policy.droppedMessages
        guard dropped.isEmpty else { throw .droppedRequests(rank: rank, dropped) }
        // MPI_Finalize spins while it waits for the other ranks; the barrier sleeps.
        try barrier()
        try Self.check(cmpi_finalize(), "MPI_Finalize")
    }

    public func start(_ message: Message, at buffer: UnsafeMutableRawPointer?) throws(CommunicationError) -> Request {
        let channel = Int32(message.channel.rawValue)
        let operation = MPIOperation(message, self)
        switch message.direction {
        case .send:
            let code = cmpi_start_send(
                buffer, message.byteCount, Int32(message.peer), Int32(message.tag), channel, narrowLimit,
                &operation.request)
            try Self.check(code, "MPI_Isend")
        case .receive:
            let code = cmpi_start_receive(
                buffer, message.byteCount, Int32(message.peer), Int32(message.tag), channel, narrowLimit,
                &operation.request)
            try Self.check(code, "MPI_Irecv")
        }
        return Request(message, operation: operation, policy: policy)
    }

    public func poke() throws(CommunicationError) {
        if let report = try takeReport() { reports.withLock { $0.append(report) } }
        if let origin = reports.withLock({ $0.first?.origin }) { throw .aborted(rank: origin) }
    }

    /// Prints this rank's report, sends it to the others, and takes theirs. The lowest of the ranks that ended the job
    /// by themselves prints the conclusion and calls `MPI_Abort`; the rest wait for that.
    public func abort(exitCode: Int32, because error: any Error) {
        fflush(nil)
        let grace = policy.grace
        var postMortem = PostMortem(rankCount: size, grace: grace)
        for report in reports.withLock({ $0 }) { postMortem.add(report) }
        // MPI may be in disorder by now; then there is just less to say.
        while let report = try? takeReport() { postMortem.add(report) }
        let mine = RankReport(
            error, rank: rank, rankCount: size, exitCode: exitCode, earlierOrigin: postMortem.reports.first?.origin)
        postMortem.add(mine)
        Self.say(mine.text)
        send(mine)
        let start = monotonicNanoseconds()
        while !postMortem.isComplete, Double(monotonicNanoseconds() - start) * 1e-9 < grace {
            if let report = try? takeReport() { postMortem.add(report) } else { usleep(1000) }
        }
        if postMortem.origin?.rank == rank {
            if size > 1 { Self.say(postMortem.conclusion) }
        } else {
            usleep(useconds_t(grace * 1e6))
        }
        cmpi_abort(postMortem.origin?.exitCode ?? exitCode)
    }

    /// Sends a report to all other ranks, without waiting for them to take it.
    private func send(_ report: RankReport) {
        let bytes = report.bytes
        // The job does not outlive the messages.
        let buffer = UnsafeMutableRawPointer.allocate(byteCount: bytes.count, alignment: 1)
        buffer.copyMemory(from: bytes, byteCount: bytes.count)
        for peer in 0..<size where peer != rank {
            var request = cmpi_request()
            _ = cmpi_start_send(buffer, bytes.count, Int32(peer), 0, Int32(cmpi_report_channel), narrowLimit, &request)
        }
    }

    /// Makes progress, and takes a report if another rank has sent one.
    private func takeReport() throws(CommunicationError) -> RankReport? {
        var source: Int32 = 0
        try Self.check(cmpi_progress(&source), "MPI_Iprobe")
        guard source >= 0 else { return nil }
        var bytes = [UInt8](repeating: 0, count: RankReport.largestByteCount)
        var count = 0
        try Self.check(cmpi_receive_report(&bytes, bytes.count, source, &count), "MPI_Recv")
        return RankReport(rank: Int(source), bytes: Array(bytes.prefix(count)))
    }

    private static func say(_ text: String) {
        let line = Array((text + "\n").utf8)
        _ = write(STDERR_FILENO, line, line.count)
    }

    fileprivate static func check(_ code: Int32, _ function: String) throws(CommunicationError) {
        guard code != 0 else { return }
        let words = text(capacity: 512) { cmpi_error_string(code, $0, $1) }
        throw .transport(function: function, code: Int(code), text: words)
    }

    private static func text(capacity: Int, _ fill: (UnsafeMutablePointer<CChar>, Int) -> Void) -> String {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: capacity) { buffer in
            fill(buffer.baseAddress!, capacity)
            return String(cString: buffer.baseAddress!)
        }
    }
}

private final class MPIOperation: PendingOperation {
    let message: Message
    var request = cmpi_request()
    private(set) var receivedByteCount = 0
    private unowned let communicator: MPICommunicator
    private var pollCount = 0

    /// Polls between two looks for a rank that has ended the job: beyond the spinning of a usual wait.
    private static let pollsPerPoke = 64

    init(_ message: Message, _ communicator: MPICommunicator) {
        self.message = message
        self.communicator = communicator
    }

    func poll() throws(CommunicationError) -> Bool {
        pollCount += 1
        if pollCount % Self.pollsPerPoke == 0 { try communicator.poke() }
        var done = false
        let code = cmpi_test(&request, &done, &receivedByteCount)
        if code != 0 && cmpi_is_truncation(code) { throw .lengthMismatch(message, received: nil) }
        try MPICommunicator.check(code, "MPI_Test")
        if done && message.direction == .receive && !message.mayBeShorter && receivedByteCount != message.byteCount {
            throw .lengthMismatch(message, received: receivedByteCount)
        }
        return done
    }

    func abandon() { cmpi_abandon(&request, message.direction == .receive) }
}
