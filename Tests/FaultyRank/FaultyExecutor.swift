import Communication
import Glibc
import Pipeline
import Synchronization

/// What a rank may suffer.
package enum Fault: String, CaseIterable, Sendable {
    case error, hang, kill
}

/// An executor that suffers a fault at the first action of one kind. Apart from that it only moves messages, and its
/// reductions and its step meet the other ranks, as those of a training job do.
package final class FaultyExecutor: StageExecutor {
    package struct Injected: Error {
        package init() {}
    }

    /// Lets ranks go that hang in threads.
    package final class Release: Sendable {
        private let isOpen = Atomic(false)

        package init() {}

        package func open() { isOpen.store(true, ordering: .relaxed) }
        func wait() { while !isOpen.load(ordering: .relaxed) { usleep(10_000) } }
    }

    /// Kinds of action, in the words of schedules; `received` is the second half of a receive.
    package static let points = [
        "F", "R", "B", "I", "W", "RECV", "received", "SEND", "WAIT", "REDUCE_DP", "REDUCE_TIED", "STEP",
    ]

    /// Contains every kind of action on every rank. Odd micro-batches have I and W, even ones B.
    package static func schedule(rankCount: Int) throws -> Schedule {
        let request = ScheduleRequest(rankCount: rankCount, microBatchCount: 4, rematerialization: .always)
        var compute = try ScheduleCatalog.training("1f1b", request)
        compute.ranks = compute.ranks.map { actions in
            actions.flatMap { action in
                action.kind == .backward && !isWhole(action.unit)
                    ? [Action(.inputGradient, action.unit), Action(.weightGradient, action.unit)] : [action]
            }
        }
        return try Lowering.lower(compute, options: LoweringOptions(reducesReplicas: true))
    }

    private static func isWhole(_ unit: UnitOfWork) -> Bool { unit.microBatch % 2 == 0 }

    /// Longer than what Open MPI sends without the receiver's help.
    private static let messageByteCount = 64 << 10

    private let communicator: any Communicator
    private let fault: Fault?
    private let point: String
    private let release: Release
    private var buffers: [StageMessage: UnsafeMutableRawBufferPointer] = [:]

    /// - Parameter fault: nil on ranks that are well.
    package init(_ communicator: any Communicator, _ fault: Fault?, at point: String, release: Release = Release()) {
        self.communicator = communicator
        self.fault = fault
        self.point = point
        self.release = release
    }

    deinit { for buffer in buffers.values { buffer.deallocate() } }

    private func pass(_ point: String) throws {
        guard point == self.point else { return }
        switch fault {
        case .error: throw Injected()
        case .hang: release.wait()
        case .kill: kill(getpid(), SIGKILL)
        case nil: break
        }
    }

    private func buffer(of message: StageMessage) -> UnsafeMutableRawBufferPointer {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.messageByteCount, alignment: 8)
        buffer.initializeMemory(as: UInt8.self, repeating: 0)
        buffers[message] = buffer
        return buffer
    }

    package func forward(_ unit: UnitOfWork, recorded: Bool) throws { try pass("F") }
    package func recompute(_ unit: UnitOfWork) throws { try pass("R") }
    package func inputGradient(_ unit: UnitOfWork) throws { try pass(Self.isWhole(unit) ? "B" : "I") }
    package func weightGradient(_ unit: UnitOfWork) throws { if !Self.isWhole(unit) { try pass("W") } }

    package func receiveBuffer(_ message: StageMessage) throws -> ReceiveBuffer {
        try pass("RECV")
        return ReceiveBuffer(buffer(of: message))
    }

    package func received(_ message: StageMessage, byteCount: Int) throws {
        try pass("received")
        buffers.removeValue(forKey: message)?.deallocate()
    }

    package func sendBuffer(_ message: StageMessage) throws -> UnsafeRawBufferPointer {
        try pass("SEND")
        return UnsafeRawBufferPointer(buffer(of: message))
    }

    package func sent(_ message: StageMessage) throws {
        try pass("WAIT")
        buffers.removeValue(forKey: message)?.deallocate()
    }

    package func reduceReplicas(stage: Int) throws { try pass("REDUCE_DP") }

    package func reduceTied() throws {
        try pass("REDUCE_TIED")
        try communicator.barrier()
    }

    package func step() throws {
        try pass("STEP")
        _ = try communicator.sum(1)
    }
}
