import CKernels
import Glibc
import Synchronization

/// Persistent worker threads of one rank. The caller of ``run(_:_:)`` is worker 0.
///
/// Which worker computes what is left open on purpose: kernels cut their work by sizes alone and never let a result depend
/// on the worker. Regions do not nest, and a pool is driven by one thread at a time.
public final class ThreadPool: @unchecked Sendable {
    /// Threads that work in a region, the caller included.
    public let threadCount: Int

    private let shared: SharedState
    private var threads: [pthread_t] = []
    private let scratchSlots: UnsafeMutablePointer<ScratchSlot>
    private let barrier: TeamBarrier

    /// Starts `threadCount − 1` threads.
    public init(threadCount: Int) {
        require(threadCount >= 1, "ThreadPool: \(threadCount) threads; expected at least 1")
        self.threadCount = threadCount
        shared = SharedState()
        barrier = TeamBarrier(memberCount: threadCount)
        scratchSlots = .allocate(capacity: 2 * threadCount)
        scratchSlots.initialize(repeating: ScratchSlot(), count: 2 * threadCount)
        for worker in 1..<max(threadCount, 1) {
            let argument = Unmanaged.passRetained(WorkerArgument(worker: worker, shared: shared))
            var thread = pthread_t()
            let status = pthread_create(
                &thread, nil,
                { raw in
                    let argument = Unmanaged<WorkerArgument>.fromOpaque(raw!).takeRetainedValue()
                    argument.shared.serve(worker: argument.worker)
                    return nil
                }, argument.toOpaque())
            require(
                status == 0, "ThreadPool: pthread_create failed with \(status) for thread \(worker) of \(threadCount)")
            threads.append(thread)
        }
    }

    deinit {
        shared.stop()
        for thread in threads { pthread_join(thread, nil) }
        for slot in 0..<2 * threadCount { free(scratchSlots[slot].base) }
        scratchSlots.deallocate()
    }

    /// Runs `body(index, worker)` once for every index in `0..<count`, on all workers; returns when all are done.
    public func run(_ count: Int, _ body: (_ index: Int, _ worker: Int) -> Void) {
        if threadCount == 1 || count <= 1 {
            for index in 0..<max(count, 0) { body(index, 0) }
            return
        }
        withoutActuallyEscaping(body) { shared.run(.loop(count: count, body: $0), workerCount: threadCount) }
    }

    /// Runs `body(worker, team)` once on every worker at the same time, for loops whose steps end in a barrier.
    /// Every member must reach the same barriers.
    public func runTeam(_ body: (_ worker: Int, _ team: TeamBarrier) -> Void) {
        if threadCount == 1 {
            body(0, barrier)
            return
        }
        let barrier = barrier
        withoutActuallyEscaping(body) { body in
            shared.run(.team { body($0, barrier) }, workerCount: threadCount)
        }
    }

    /// Scratch memory of a worker: at least `floats` floats, 64-byte aligned, contents undefined. Grows when needed (the
    /// previous pointer is then dead) and is kept, so that a loop allocates nothing once it has warmed up.
    public func scratch(worker: Int, floats: Int) -> UnsafeMutablePointer<Float> {
        scratchSlots[2 * worker].reserve(floats)
    }

    /// Scratch of the matrix products, apart from ``scratch(worker:floats:)`` so that kernels can hold the latter across one.
    func gemmScratch(worker: Int, floats: Int) -> UnsafeMutablePointer<Float> {
        scratchSlots[2 * worker + 1].reserve(floats)
    }
}

/// A barrier for the members of a team region; waits are short, so it spins before it yields.
public final class TeamBarrier: @unchecked Sendable {
    public let memberCount: Int
    private let arrived = Atomic<Int>(0)
    private let phase = Atomic<Int>(0)

    init(memberCount: Int) { self.memberCount = memberCount }

    /// Returns once all members have called it; what they wrote before is visible to all after.
    public func wait() {
        if memberCount == 1 { return }
        let before = phase.load(ordering: .acquiring)
        if arrived.add(1, ordering: .acquiringAndReleasing).newValue == memberCount {
            arrived.store(0, ordering: .relaxed)
            phase.store(before &+ 1, ordering: .releasing)
            return
        }
        spin { phase.load(ordering: .acquiring) != before }
    }
}

/// Pauses before a waiting thread offers its core to others: about 30 µs.
private let pausesBeforeYield = 700

/// Waits for `condition`, politely after a while: there may be more threads than cores.
private func spin(until condition: () -> Bool) {
    var pauses = 0
    while !condition() {
        if pauses < pausesBeforeYield {
            pauses += 1
            ck_spin_pause()
        } else {
            sched_yield()
        }
    }
}

private struct ScratchSlot {
    var base: UnsafeMutablePointer<Float>?
    var capacity = 0

    mutating func reserve(_ floats: Int) -> UnsafeMutablePointer<Float> {
        if let base, floats <= capacity { return base }
        free(base)
        // Whole 4 KiB pages; growth by half at least, so that slowly rising requests settle.
        capacity = (max(floats, capacity + capacity / 2, 1) + 1023) / 1024 * 1024
        let memory = aligned_alloc(64, capacity * MemoryLayout<Float>.stride)
        require(memory != nil, "ThreadPool.scratch: out of memory for \(capacity * 4) bytes")
        let typed = memory!.bindMemory(to: Float.self, capacity: capacity)
        base = typed
        return typed
    }
}

private final class WorkerArgument {
    let worker: Int
    let shared: SharedState

    init(worker: Int, shared: SharedState) {
        self.worker = worker
        self.shared = shared
    }
}

/// What the threads share. A region is open while `epoch` is odd. Workers enter by counting themselves into `active` and
/// then looking at `epoch` again; the caller closes the epoch and then waits for `active` to drop to zero. So a worker that
/// wakes late finds the region closed and is not waited for.
private final class SharedState: @unchecked Sendable {
    enum Job {
        case loop(count: Int, body: (Int, Int) -> Void)
        case team(body: (Int) -> Void)
    }

    private var job: Job?
    private let epoch = Atomic<Int>(0)
    private let next = Atomic<Int>(0)
    private let active = Atomic<Int>(0)
    private let teamLeft = Atomic<Int>(0)
    private let sleeping = Atomic<Int>(0)
    private let stopped = Atomic<Bool>(false)
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let wakeUp = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(wakeUp, nil)
    }

    deinit {
        pthread_cond_destroy(wakeUp)
        pthread_mutex_destroy(mutex)
        wakeUp.deallocate()
        mutex.deallocate()
    }

    func run(_ job: Job, workerCount: Int) {
        self.job = job
        next.store(0, ordering: .relaxed)
        teamLeft.store(workerCount, ordering: .relaxed)
        epoch.add(1, ordering: .sequentiallyConsistent)
        wake()
        work(on: job, worker: 0)
        if case .team = job { spin { teamLeft.load(ordering: .acquiring) == 0 } }
        epoch.add(1, ordering: .sequentiallyConsistent)
        spin { active.load(ordering: .sequentiallyConsistent) == 0 }
        self.job = nil
    }

    func stop() {
        stopped.store(true, ordering: .sequentiallyConsistent)
        wake()
    }

    func serve(worker: Int) {
        var finished = 0
        while waitForRegion(after: finished) {
            active.add(1, ordering: .sequentiallyConsistent)
            let current = epoch.load(ordering: .sequentiallyConsistent)
            if current & 1 == 1, current != finished, let job {
                work(on: job, worker: worker)
                finished = current
            }
            active.subtract(1, ordering: .sequentiallyConsistent)
        }
    }

    private func work(on job: Job, worker: Int) {
        switch job {
        case .loop(let count, let body):
            while true {
                let index = next.add(1, ordering: .relaxed).oldValue
                if index >= count { return }
                body(index, worker)
            }
        case .team(let body):
            body(worker)
            teamLeft.subtract(1, ordering: .acquiringAndReleasing)
        }
    }

    private func isOpen(after finished: Int) -> Bool {
        let current = epoch.load(ordering: .sequentiallyConsistent)
        return current & 1 == 1 && current != finished
    }

    /// Spins briefly, then sleeps. False when the pool is stopping.
    private func waitForRegion(after finished: Int) -> Bool {
        for _ in 0..<pausesBeforeYield {
            if isOpen(after: finished) { return true }
            if stopped.load(ordering: .relaxed) { return false }
            ck_spin_pause()
        }
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        sleeping.add(1, ordering: .sequentiallyConsistent)
        defer { sleeping.subtract(1, ordering: .sequentiallyConsistent) }
        while !isOpen(after: finished) {
            if stopped.load(ordering: .sequentiallyConsistent) { return false }
            pthread_cond_wait(wakeUp, mutex)
        }
        return true
    }

    private func wake() {
        guard sleeping.load(ordering: .sequentiallyConsistent) > 0 else { return }
        pthread_mutex_lock(mutex)
        pthread_cond_broadcast(wakeUp)
        pthread_mutex_unlock(mutex)
    }
}
