import CKernels

/// Loops over flat arrays. The result may overlay an input exactly (`y === x`), never partly.
public enum Elementwise {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// `y = a + b`
    public static func add(_ a: Source, _ b: Source, into y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in ck_add(y + start, a + start, b + start, length) }
    }

    /// `y += x`
    public static func add(_ x: Source, to y: Destination, count: Int, threads: ThreadPool) {
        add(y, x, into: y, count: count, threads: threads)
    }

    /// `y = a − b`
    public static func subtract(_ a: Source, _ b: Source, into y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in ck_subtract(y + start, a + start, b + start, length) }
    }

    /// `y = a · b`
    public static func multiply(_ a: Source, _ b: Source, into y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in ck_multiply(y + start, a + start, b + start, length) }
    }

    /// `y += a · b`
    public static func multiplyAdd(_ a: Source, _ b: Source, to y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in ck_multiply_add(y + start, a + start, b + start, length) }
    }

    /// `y[r] += row · x[r]` for `x`, `y` `[rows, columns]` and `row` `[columns]`.
    public static func multiplyAdd(
        row factors: Source, _ x: Source, to y: Destination, rows: Int, columns: Int, threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: columns) { row, count in
            for r in row..<row + count { ck_multiply_add(y + r * columns, x + r * columns, factors, columns) }
        }
    }

    /// `y = factor · x`
    public static func scale(_ x: Source, by factor: Float, into y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in ck_scale(y + start, x + start, factor, length) }
    }

    /// `y += factor · x`
    public static func axpy(_ factor: Float, _ x: Source, to y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in ck_axpy(y + start, factor, x + start, length) }
    }

    /// `y = x`
    public static func copy(_ x: Source, into y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in (y + start).update(from: x + start, count: length) }
    }

    /// `y = value`
    public static func fill(_ y: Destination, with value: Float, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in (y + start).update(repeating: value, count: length) }
    }

    /// `y[r] = x[r] + bias` for `x`, `y` `[rows, columns]` and `bias` `[columns]`.
    public static func addBias(
        _ bias: Source, to x: Source, into y: Destination, rows: Int, columns: Int, threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: rows, width: columns) { row, count in
            for r in row..<row + count { ck_add(y + r * columns, x + r * columns, bias, columns) }
        }
    }
}

extension ThreadPool {
    /// Elements worth one hand-over to another thread: 64 KiB of floats.
    static let panelElements = 16_384

    /// Cuts `0..<count` into pieces of `size` and runs `body(start, length)` on each.
    ///
    /// For work whose pieces do not influence each other, so that neither the cut nor the number of threads shows.
    func forEachPanel(of count: Int, size: Int = panelElements, _ body: (_ start: Int, _ length: Int) -> Void) {
        if count <= 0 { return }
        if threadCount == 1 || count <= size { return body(0, count) }
        run((count + size - 1) / size) { index, _ in body(index * size, min(size, count - index * size)) }
    }

    /// As `forEachPanel`, for rows of `width` elements each.
    func forEachRowPanel(of rows: Int, width: Int, _ body: (_ row: Int, _ count: Int) -> Void) {
        forEachPanel(of: rows, size: max(1, Self.panelElements / max(width, 1)), body)
    }

    /// Cuts columns among the threads for sums over `rows` rows: each column is summed by one thread, in row order.
    func forEachColumnPanel(of columns: Int, rows: Int, _ body: (_ column: Int, _ count: Int) -> Void) {
        if columns * rows <= Self.panelElements { return body(0, columns) }
        let share = (columns + threadCount - 1) / threadCount
        forEachPanel(of: columns, size: max(64, (share + 15) / 16 * 16), body)
    }
}
