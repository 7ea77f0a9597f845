import Glibc

extension GEMM {
    /// FLOP/s of one thread at large matrix products, a multiply-add counted as 2: the best of a few products of
    /// 1024 × 1024 × 1024, native and by OpenBLAS (when installed). Takes about 0.2 s.
    public static func measurePeak() -> Double {
        let size = 1024
        let operands = UnsafeMutablePointer<Float>.allocate(capacity: 3 * size * size)
        defer { operands.deallocate() }
        for i in 0..<2 * size * size { operands[i] = Float(i % 257) * 0.01 - 1.28 }
        let (a, b, c) = (operands, operands + size * size, operands + 2 * size * size)
        let oneThread = ThreadPool(threadCount: 1)
        let instructionSet = KernelVariant.current.instructionSet
        var best = Double.infinity
        for _ in 0..<5 {
            best = min(
                best,
                seconds {
                    multiply(
                        a, transposeA: false, lda: size, b, transposeB: false, ldb: size, m: size, n: size, k: size,
                        accumulate: false, bias: nil, into: c, ldc: size, instructionSet: instructionSet,
                        threads: oneThread)
                })
            guard OpenBLAS.isAvailable else { continue }
            best = min(
                best,
                seconds {
                    OpenBLAS.multiply(
                        a, transposeA: false, lda: size, b, transposeB: false, ldb: size, m: size, n: size, k: size,
                        accumulate: false, into: c, ldc: size)
                })
        }
        return 2 * Double(size * size * size) / best
    }

    private static func seconds(_ body: () -> Void) -> Double {
        var (start, end) = (timespec(), timespec())
        clock_gettime(CLOCK_MONOTONIC, &start)
        body()
        clock_gettime(CLOCK_MONOTONIC, &end)
        return Double(end.tv_sec - start.tv_sec) + 1e-9 * Double(end.tv_nsec - start.tv_nsec)
    }
}
