import Models
import Tensors
import TestSupport
import Testing

@Suite struct StoragePoolTests {
    @Test func buffersAreRecycledAndAccountedFor() {
        let pool = StoragePool(fillsWithNaN: true)
        do {
            let a = Tensor(Shape(100), pool: pool)
            #expect(a.array.allSatisfy { $0.isNaN })
            #expect(UInt(bitPattern: a.pointer) % 64 == 0)
            #expect(pool.liveBytes(.activations) >= 400)
            #expect(pool.liveBytes(.gradients) == 0)
            a.fill(1)
            #expect(a.reshaped(Shape(10, 10)).pointer == a.pointer)
        }
        #expect(pool.liveBytes == 0)
        let b = Tensor(Shape(99), pool: pool, category: .gradients)
        #expect(pool.systemAllocationCount == 1, "a buffer of the same size class is taken again")
        #expect(b.array.allSatisfy { $0.isNaN }, "what the last owner wrote must not be seen")
        #expect(pool.peakBytes == pool.liveBytes)
        #expect(pool.peakBytes(.activations) == pool.liveBytes(.gradients))
        pool.resetPeaks()
        #expect(pool.peakBytes(.activations) == 0)
    }

    @Test func sharedStorageIsGivenBackOnce() {
        let pool = StoragePool(fillsWithNaN: false)
        var a: Tensor? = Tensor(Shape(8), pool: pool)
        var b = a
        let isShared = !a!.isUniquelyReferenced()
        #expect(isShared)
        a = nil
        #expect(pool.liveBytes > 0)
        let isOwn = b!.isUniquelyReferenced()
        #expect(isOwn)
        b = nil
        #expect(pool.liveBytes == 0)
    }

    /// Zero allocations and no growth once the first steps have warmed the pool up.
    @Test(arguments: [false, true]) func stepsReuseTheirBuffers(rematerialized: Bool) throws {
        let tiny = try TinyModel(fillsWithNaN: false)
        for case let block as Block in tiny.model.hidden { block.isRematerialized = rematerialized }
        for number in 1...2 { _ = tiny.step(number) }
        let pool = tiny.context.pool
        let (allocations, live) = (pool.systemAllocationCount, pool.liveBytes)
        #expect(pool.liveBytes(.activations) == 0, "nothing of a step survives it")
        for number in 3...6 { _ = tiny.step(number) }
        #expect(pool.systemAllocationCount == allocations)
        #expect(pool.liveBytes == live)
    }

    /// Re-materialisation is there to save activations.
    @Test func rematerialisedBlocksPeakLower() throws {
        var peaks: [Int] = []
        for rematerialized in [false, true] {
            let layer: Setting = ["repeat": "6", "mixer": ["type": "rnn"], "mlp": ["hidden_size": "200"]]
            let tiny = try TinyModel(["vocabulary_size": "37", "width": "24", "layers": [layer]])
            for case let block as Block in tiny.model.hidden { block.isRematerialized = rematerialized }
            _ = tiny.step()
            peaks.append(tiny.context.pool.peakBytes(.activations))
        }
        #expect(peaks[1] * 2 < peaks[0])
    }

    /// Every operation writes all that it, or a later one, reads: a NaN left in a fresh buffer would
    /// reach the loss or a gradient.
    @Test(arguments: [false, true]) func unwrittenElementsAreNeverRead(rematerialized: Bool) throws {
        let (checked, plain) = (try TinyModel(fillsWithNaN: true), try TinyModel(fillsWithNaN: false))
        for case let block as Block in checked.model.hidden { block.isRematerialized = rematerialized }
        for number in 1...2 {
            let (a, b) = (checked.step(number), plain.step(number))
            #expect(a.loss.isFinite && a.loss == b.loss)
            #expect(a.gradients == b.gradients)
        }
    }
}
