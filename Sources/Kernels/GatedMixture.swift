import CKernels

/// Gated sums of two signals, element by element.
public enum GatedMixture {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// `y = x + σ(gate) (silu(a + b) − x)`
    public static func highway(
        _ x: Source, gate: Source, a: Source, b: Source, into y: Destination, count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in
            ck_gated_residual(y + start, x + start, gate + start, a + start, b + start, length)
        }
    }

    /// The gradient `dSum` is that of `a` and of `b`.
    public static func highwayBackward(
        _ dy: Source, x: Source, gate: Source, a: Source, b: Source, dx: Destination, dGate: Destination,
        dSum: Destination, count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in
            ck_gated_residual_backward(
                dx + start, dGate + start, dSum + start, dy + start, x + start, gate + start, a + start, b + start,
                length)
        }
    }

    /// `y = σ(firstGate) first + σ(secondGate) second`
    public static func gatedSum(
        _ first: Source, gate firstGate: Source, _ second: Source, gate secondGate: Source, into y: Destination,
        count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in
            ck_gated_sum(y + start, firstGate + start, first + start, secondGate + start, second + start, length)
        }
    }

    public static func gatedSumBackward(
        _ dy: Source, first: Source, gate firstGate: Source, second: Source, gate secondGate: Source,
        dFirst: Destination, dFirstGate: Destination, dSecond: Destination, dSecondGate: Destination, count: Int,
        threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in
            ck_gated_sum_backward(
                dFirstGate + start, dFirst + start, dSecondGate + start, dSecond + start, dy + start,
                firstGate + start, first + start, secondGate + start, second + start, length)
        }
    }
}
