import Kernels
import Synchronization
import Testing

@Suite struct ThreadPoolTests {
    @Test(arguments: [1, 2, 3, 8])
    func runsEveryIndexOnce(_ threadCount: Int) {
        let pool = ThreadPool(threadCount: threadCount)
        for count in [0, 1, 2, 7, 100] {
            for _ in 0..<50 {
                var hits = [Int](repeating: 0, count: count + 1)
                hits.withUnsafeMutableBufferPointer { hits in
                    nonisolated(unsafe) let base = hits.baseAddress!
                    pool.run(count) { index, worker in
                        base[index] += worker < threadCount ? 1 : 1000
                    }
                }
                #expect(hits == [Int](repeating: 1, count: count) + [0])
            }
        }
    }

    @Test func sleepingWorkersWakeUp() async throws {
        let pool = ThreadPool(threadCount: 2)
        for _ in 0..<5 {
            try await Task.sleep(for: .milliseconds(5))
            let team = Atomic<Int>(0)
            pool.runTeam { _, barrier in
                team.add(1, ordering: .relaxed)
                barrier.wait()
            }
            #expect(team.load(ordering: .relaxed) == 2)
        }
    }

    @Test(arguments: [1, 2, 4])
    func teamStepsTogether(_ threadCount: Int) {
        let pool = ThreadPool(threadCount: threadCount)
        let steps = 500
        var counts = [Int](repeating: 0, count: threadCount * 64)
        let torn = Atomic<Int>(0)
        counts.withUnsafeMutableBufferPointer { counts in
            nonisolated(unsafe) let base = counts.baseAddress!
            pool.runTeam { worker, team in
                for step in 0..<steps {
                    base[worker * 64] = step + 1
                    team.wait()
                    for other in 0..<team.memberCount where base[other * 64] != step + 1 {
                        torn.add(1, ordering: .relaxed)
                    }
                    team.wait()
                }
            }
        }
        #expect(torn.load(ordering: .relaxed) == 0)
    }

    @Test func scratchIsAlignedAndKept() {
        let pool = ThreadPool(threadCount: 2)
        let first = pool.scratch(worker: 1, floats: 1000)
        #expect(Int(bitPattern: first) % 64 == 0)
        #expect(pool.scratch(worker: 1, floats: 10) == first)
        #expect(pool.scratch(worker: 0, floats: 10) != first)
        let grown = pool.scratch(worker: 1, floats: 1 << 20)
        #expect(Int(bitPattern: grown) % 64 == 0)
        #expect(pool.scratch(worker: 1, floats: 1 << 20) == grown)
    }

    @Test func poolsComeAndGo() {
        for _ in 0..<50 {
            let pool = ThreadPool(threadCount: 3)
            let sum = Atomic<Int>(0)
            pool.run(10) { index, _ in sum.add(index, ordering: .relaxed) }
            #expect(sum.load(ordering: .relaxed) == 45)
        }
    }
}
