import Glibc
import Synchronization

/// Whether the job was asked to stop (SIGTERM, SIGINT, SIGUSR1: what batch systems send before they
/// kill). The loop finishes its step, writes a checkpoint, and ends with status 75. A second SIGINT
/// ends the process at once.
public final class StopSignal: Sendable {
    public static let shared = StopSignal()
    private let requests = Atomic<Int>(0)

    public var isRequested: Bool { requests.load(ordering: .relaxed) > 0 }

    /// Idempotent; process-wide.
    public func install() {
        for number in [SIGTERM, SIGINT, SIGUSR1] {
            signal(number) { number in
                if StopSignal.shared.requests.add(1, ordering: .relaxed).newValue > 1, number == SIGINT { _exit(130) }
            }
        }
    }
}
