import CKernels

/// `x_t = a x_{t−1} + b_t` for complex lanes with a constant diagonal transition (S5, LRU).
///
/// Legend: B batch, T time, P lanes. Rows are planes side by side, `[2P]`: real parts, then imaginary ones. States are
/// pairs, `[B, P, 2]`. One task is one sequence and 64 lanes.
public struct ComplexScan {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    public let batch: Int
    public let time: Int
    public let lanes: Int

    public init(batch: Int, time: Int, lanes: Int) {
        require(
            batch >= 1 && time >= 1 && lanes >= 1,
            "ComplexScan: batch \(batch), time \(time), lanes \(lanes); expected at least 1")
        (self.batch, self.time, self.lanes) = (batch, time, lanes)
    }

    private static let groupWidth = 64

    /// - Parameters:
    ///   - a: `[2P]`. - b: `[B·T, 2P]`. - stateIn: `[B, P, 2]`; nil is zero.
    ///   - x: `[B·T, 2P]`, written. - stateOut: `[B, P, 2]`, written.
    public func forward(
        a: Source, b: Source, stateIn: Source?, into x: Destination, stateOut: Destination, threads: ThreadPool
    ) {
        forEachGroup(threads) { row, first, count, scratch in
            let at = row * time * 2 * lanes + first
            split(stateIn.map { $0 + (row * lanes + first) * 2 }, count, into: scratch + first)
            ck_complex_scan_forward(
                a + first, b + at, scratch + first, x + at, time, count, lanes, 2 * lanes)
            join(scratch + first, count, into: stateOut + (row * lanes + first) * 2)
        }
    }

    /// - Parameters:
    ///   - x: `[B·T, 2P]` of the forward pass. - stateIn: alike.
    ///   - dx: `[B·T, 2P]`. - dStateOut: `[B, P, 2]`; nil is zero.
    ///   - db: `[B·T, 2P]`, written; may be `dx`. - daParts: `[B, 2P]`, a sequence's gradient of `a`, written.
    ///   - dStateIn: `[B, P, 2]`, written.
    public func backward(
        a: Source, x: Source, stateIn: Source?, dx: Source, dStateOut: Source?, into db: Destination,
        daParts: Destination, dStateIn: Destination, threads: ThreadPool
    ) {
        forEachGroup(threads) { row, first, count, scratch in
            let (at, state) = (row * time * 2 * lanes + first, (row * lanes + first) * 2)
            let (before, g, da) = (scratch + first, scratch + 2 * lanes + first, daParts + row * 2 * lanes + first)
            split(stateIn.map { $0 + state }, count, into: before)
            split(dStateOut.map { $0 + state }, count, into: g)
            da.update(repeating: 0, count: count)
            (da + lanes).update(repeating: 0, count: count)
            ck_complex_scan_backward(
                a + first, x + at, before, dx + at, g, db + at, da, time, count, lanes, 2 * lanes)
            join(g, count, into: dStateIn + state)
        }
    }

    private func forEachGroup(
        _ threads: ThreadPool, _ body: (_ row: Int, _ first: Int, _ count: Int, _ scratch: Destination) -> Void
    ) {
        let groupCount = (lanes + Self.groupWidth - 1) / Self.groupWidth
        threads.run(batch * groupCount) { task, worker in
            let first = task % groupCount * Self.groupWidth
            body(
                task / groupCount, first, min(Self.groupWidth, lanes - first),
                threads.scratch(worker: worker, floats: 4 * lanes))
        }
    }

    private func split(_ pairs: Source?, _ count: Int, into planes: Destination) {
        for lane in 0..<count {
            planes[lane] = pairs?[2 * lane] ?? 0
            planes[lanes + lane] = pairs?[2 * lane + 1] ?? 0
        }
    }

    private func join(_ planes: Source, _ count: Int, into pairs: Destination) {
        for lane in 0..<count {
            pairs[2 * lane] = planes[lane]
            pairs[2 * lane + 1] = planes[lanes + lane]
        }
    }
}
