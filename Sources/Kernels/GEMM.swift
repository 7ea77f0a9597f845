import CKernels

/// Single-precision matrix products on row-major operands.
///
/// With the native backend the order in which an element of C is summed depends on `k` alone (see `ck_gemm.h`): not on `m`,
/// `n`, the element's position, threads, or how the operands are stored. A row of a product is therefore bitwise the same
/// whatever other rows are computed with it. With `SEQTRAIN_GEMM=openblas`, C is cut in row panels of a fixed height, so
/// results still do not depend on threads, but may depend on `m` and `n`.
public enum GEMM {
    /// `C[m, n] = op(A) op(B) (+ bias) (+ C)`.
    ///
    /// - Parameters:
    ///   - a: `[m, k]` with row stride `lda`; `[k, m]` when `transposeA`.
    ///   - b: `[k, n]` with row stride `ldb`; `[n, k]` when `transposeB`.
    ///   - accumulate: add to C instead of replacing it.
    ///   - bias: `[n]`, added once to every row; only without `accumulate`.
    ///   - c: `[m, n]` with row stride `ldc`; must not overlap the operands.
    public static func multiply(
        _ a: UnsafePointer<Float>, transposeA: Bool = false, lda: Int, _ b: UnsafePointer<Float>,
        transposeB: Bool = false,
        ldb: Int, m: Int, n: Int, k: Int, accumulate: Bool, bias: UnsafePointer<Float>? = nil,
        into c: UnsafeMutablePointer<Float>, ldc: Int, threads: ThreadPool
    ) {
        let variant = KernelVariant.current
        if variant.backend == .openblas {
            multiplyWithOpenBLAS(
                a, transposeA: transposeA, lda: lda, b, transposeB: transposeB, ldb: ldb, m: m, n: n, k: k,
                accumulate: accumulate, bias: bias, into: c, ldc: ldc, threads: threads)
        } else {
            multiply(
                a, transposeA: transposeA, lda: lda, b, transposeB: transposeB, ldb: ldb, m: m, n: n, k: k,
                accumulate: accumulate, bias: bias, into: c, ldc: ldc, instructionSet: variant.instructionSet,
                threads: threads)
        }
    }

    /// `C[m, n] = A B (+ C)` with B packed beforehand; always native. `a` is `[m, packed.k]` with row stride `lda`.
    public static func multiply(
        _ a: UnsafePointer<Float>, lda: Int, packed: PackedMatrix, m: Int, accumulate: Bool,
        bias: UnsafePointer<Float>? = nil, into c: UnsafeMutablePointer<Float>, ldc: Int, threads: ThreadPool
    ) {
        let (n, k) = (packed.n, packed.k)
        checkSizes(
            transposeA: false, lda: lda, transposeB: false, ldb: n, m: m, n: n, k: k, ldc: ldc,
            biasWithAccumulate: accumulate && bias != nil)
        if m == 0 || n == 0 { return }
        let grid = Grid(
            m: m, n: n, k: k, sliver: ck_gemm_sliver_width(packed.instructionSet.rawValue), packsB: false,
            packsA: false,
            threadCount: threads.threadCount)
        threads.run(grid.taskCount) { task, _ in
            let (rows, columns) = grid.ranges(task)
            let (i, j) = (rows.lowerBound, columns.lowerBound)
            ck_gemm_packed(
                packed.instructionSet.rawValue, a + i * lda, lda, packed.base + j * k, rows.count, columns.count, k,
                accumulate ? 1 : 0, bias.map { $0 + j }, c + i * ldc + j, ldc)
        }
    }

    /// One worker's product inside a parallel region of `threads`: single-threaded, native, the same sums as
    /// ``multiply(_:transposeA:lda:_:transposeB:ldb:m:n:k:accumulate:bias:into:ldc:threads:)``.
    public static func multiplyOnWorker(
        _ a: UnsafePointer<Float>, transposeA: Bool = false, lda: Int, _ b: UnsafePointer<Float>,
        transposeB: Bool = false,
        ldb: Int, m: Int, n: Int, k: Int, accumulate: Bool, into c: UnsafeMutablePointer<Float>, ldc: Int, worker: Int,
        threads: ThreadPool
    ) {
        if m == 0 || n == 0 { return }
        let isa = KernelVariant.current.instructionSet.rawValue
        let scratch = threads.gemmScratch(worker: worker, floats: ck_gemm_scratch_floats(isa))
        ck_gemm(
            isa, transposeA ? 1 : 0, a, lda, transposeB ? 1 : 0, b, ldb, m, n, k, accumulate ? 1 : 0, nil, c, ldc,
            scratch)
    }

    /// One worker's share of ``multiply(_:lda:packed:m:accumulate:bias:into:ldc:threads:)``, inside a parallel region.
    static func multiplyOnWorker(
        _ a: UnsafePointer<Float>, lda: Int, packed: PackedMatrix, m: Int, accumulate: Bool,
        bias: UnsafePointer<Float>? = nil, into c: UnsafeMutablePointer<Float>, ldc: Int
    ) {
        ck_gemm_packed(
            packed.instructionSet.rawValue, a, lda, packed.base, m, packed.n, packed.k, accumulate ? 1 : 0, bias, c, ldc
        )
    }

    /// The native product with a given instruction set.
    package static func multiply(
        _ a: UnsafePointer<Float>, transposeA: Bool, lda: Int, _ b: UnsafePointer<Float>, transposeB: Bool, ldb: Int,
        m: Int, n: Int, k: Int, accumulate: Bool, bias: UnsafePointer<Float>?, into c: UnsafeMutablePointer<Float>,
        ldc: Int,
        instructionSet: InstructionSet, threads: ThreadPool
    ) {
        checkSizes(
            transposeA: transposeA, lda: lda, transposeB: transposeB, ldb: ldb, m: m, n: n, k: k, ldc: ldc,
            biasWithAccumulate: accumulate && bias != nil)
        if m == 0 || n == 0 { return }
        let isa = instructionSet.rawValue
        let grid = Grid(
            m: m, n: n, k: k, sliver: ck_gemm_sliver_width(isa), packsB: true, packsA: transposeA,
            threadCount: threads.threadCount)
        threads.run(grid.taskCount) { task, worker in
            let (rows, columns) = grid.ranges(task)
            let (i, j) = (rows.lowerBound, columns.lowerBound)
            ck_gemm(
                isa, transposeA ? 1 : 0, a + (transposeA ? i : i * lda), lda, transposeB ? 1 : 0,
                b + (transposeB ? j * ldb : j), ldb, rows.count, columns.count, k, accumulate ? 1 : 0,
                bias.map { $0 + j }, c + i * ldc + j, ldc,
                threads.gemmScratch(worker: worker, floats: ck_gemm_scratch_floats(isa)))
        }
    }

    static func checkSizes(
        transposeA: Bool, lda: Int, transposeB: Bool, ldb: Int, m: Int, n: Int, k: Int, ldc: Int,
        biasWithAccumulate: Bool
    ) {
        require(m >= 0 && n >= 0 && k >= 0, "GEMM.multiply: m \(m), n \(n), k \(k); expected no negative size")
        let (wantA, wantB) = (transposeA ? m : k, transposeB ? k : n)
        require(
            lda >= wantA && ldb >= wantB && ldc >= n,
            "GEMM.multiply: lda \(lda), ldb \(ldb), ldc \(ldc); expected at least \(wantA), \(wantB), \(n)")
        require(!biasWithAccumulate, "GEMM.multiply: bias and accumulate; expected at most one of them")
    }
}

/// How one product is shared out: a grid of row and column ranges, one task each.
private struct Grid {
    let m: Int
    let n: Int
    let sliver: Int
    var rowParts = 1
    var columnParts = 1

    /// Multiply-adds below which waking another thread costs more than it saves.
    private static let smallest = 1 << 17

    /// Every task packs what it needs of B (and of A when that is transposed), as much work as about 8 more rows
    /// (columns); the grid with the least work in its largest task wins.
    init(m: Int, n: Int, k: Int, sliver: Int, packsB: Bool, packsA: Bool, threadCount: Int) {
        self.m = m
        self.n = n
        self.sliver = sliver
        let parts = min(threadCount, max(1, m * n * max(k, 1) / Grid.smallest))
        if parts == 1 { return }
        let slivers = (n + sliver - 1) / sliver
        var least = Int.max
        for columnParts in 1...parts where columnParts <= slivers {
            let rowParts = max(1, min(parts / columnParts, m / 4))
            let rows = (m + rowParts - 1) / rowParts
            let columns = min(n, (slivers + columnParts - 1) / columnParts * sliver)
            let work = rows * columns + (packsB ? 8 * columns : 0) + (packsA ? 8 * rows : 0)
            if work < least { (least, self.rowParts, self.columnParts) = (work, rowParts, columnParts) }
        }
    }

    var taskCount: Int { rowParts * columnParts }

    func ranges(_ task: Int) -> (rows: Range<Int>, columns: Range<Int>) {
        let (row, column) = (task / columnParts, task % columnParts)
        let slivers = (n + sliver - 1) / sliver
        return (
            m * row / rowParts..<m * (row + 1) / rowParts,
            slivers * column / columnParts * sliver..<min(n, slivers * (column + 1) / columnParts * sliver)
        )
    }
}
