import Kernels
import Tensors

/// The summed token loss of a unit of work. On a recording tape it is known once the backward pass
/// has gone through the head, because the projection is computed once, there.
public final class LossSum {
    /// Sum over counted tokens of −log p(target), in nats; rows added in order, in Double.
    public private(set) var total: Double?
    /// Per row, 0 where its target is ignored.
    public private(set) var rowLosses: [Float] = []
    /// Sum over counted tokens of the divergence from a teacher's distribution, in nats; 0 without a teacher.
    public private(set) var divergence = 0.0
    /// Per row, 1 where its target counts and has the largest logit; empty on a recording tape, which does not look.
    public private(set) var hits: [Int32] = []
    private var observers: [() -> Void] = []

    public func whenComputed(_ body: @escaping () -> Void) {
        if total != nil { body() } else { observers.append(body) }
    }

    func complete(_ rowLosses: [Float], divergence: Double, hits: [Int32]) {
        total = rowLosses.reduce(0) { $0 + Double($1) }
        self.rowLosses = rowLosses
        self.divergence = divergence
        self.hits = hits
        for observer in observers { observer() }
        observers.removeAll()
    }
}

/// Another state of the same tokens, whose distribution a loss draws towards: in place of `CE`,
/// `(1 − share)·CE + share·KL(teacher ‖ p)`. The teacher is a constant.
public struct LossTeacher {
    /// `[R, D]`.
    let state: Tensor
    let share: Float

    public init(_ state: Variable, share: Float) {
        self.state = state.value
        self.share = share
    }
}

extension Tape {
    /// Bound on the logits held at once: 16 MiB of floats, but at least 64 rows so that the product
    /// over the rows stays a matrix product.
    public static func crossEntropyBlockRows(rows: Int, vocabulary: Int) -> Int {
        let limit = max(64, (4 << 20) / vocabulary)
        let blocks = (rows + limit - 1) / limit
        return (rows + blocks - 1) / blocks
    }

    /// `Σ −log softmax(x Wᵀ + b)[target]`, with the projection inside, so that the logits of the whole
    /// micro-batch never exist at once.
    ///
    /// A recording tape does all its work in the backward pass: per block of rows the logits are made
    /// once and serve the loss, `dx`, `dW` and `db`. When there is only one block it is kept, and `dW` and `db` are
    /// postponed; several blocks would take the memory that blocks are there to save.
    /// - Parameters:
    ///   - x: `[R, D]`. - targets: `[R]`, negative ignored. - weight: `[V, D]`. - bias: `[V]`.
    ///   - scales: `[R]`, factors on the gradients of the rows, which only a recording tape makes.
    ///   - logits: if given, receives `[R, V]`.
    ///   - teacher: goes through the same projection, once more, where there are gradients; otherwise it is not looked at.
    public func crossEntropy(
        _ x: Variable, targets: UnsafePointer<Int32>, weight: ParameterUse, bias: ParameterUse?,
        scales: [Float], logits: Tensor? = nil, teacher: LossTeacher? = nil
    ) -> LossSum {
        let result = LossSum()
        let kept = Array(UnsafeBufferPointer(start: targets, count: x.value.rows))
        if isRecording {
            require(scales.count == kept.count, "Tape.crossEntropy: \(scales.count) scales for \(kept.count) rows")
            recordRaw {
                self.crossEntropyBlocks(
                    x, kept, weight: weight, bias: bias, scales: scales, logits: logits, teacher: teacher, into: result)
            }
        } else {
            crossEntropyBlocks(
                x, kept, weight: weight, bias: bias, scales: nil, logits: logits, teacher: nil, into: result)
        }
        return result
    }

    /// - Parameter scales: nil leaves the gradient out.
    private func crossEntropyBlocks(
        _ x: Variable, _ targets: [Int32], weight: ParameterUse, bias: ParameterUse?, scales: [Float]?,
        logits: Tensor?, teacher: LossTeacher?, into result: LossSum
    ) {
        let withGradient = scales != nil
        let (rows, width, vocabulary) = (x.value.rows, x.value.width, weight.shape[0])
        let blockRows = Tape.crossEntropyBlockRows(rows: rows, vocabulary: vocabulary)
        let block = context.tensor(Shape(blockRows, vocabulary))
        let dx = withGradient && x.needsGradient ? x.writableGradient(context) : nil
        let rowLosses = context.tensor(Shape(rows))
        let taught = teacher.map { _ in
            (logits: context.tensor(Shape(blockRows, vocabulary)), divergence: context.tensor(Shape(blockRows)))
        }
        var divergence = 0.0
        var hits = [Int32](repeating: 0, count: withGradient ? 0 : rows)
        targets.withUnsafeBufferPointer { targets in
            for first in stride(from: 0, to: rows, by: blockRows) {
                let count = min(blockRows, rows - first)
                let input = x.value.pointer + first * width
                func project(_ input: UnsafePointer<Float>, into block: Tensor) {
                    GEMM.multiply(
                        input, lda: width, weight.value.pointer, transposeB: true, ldb: width, m: count,
                        n: vocabulary, k: width, accumulate: false,
                        bias: bias.map { UnsafePointer($0.value.pointer) }, into: block.pointer, ldc: vocabulary,
                        threads: threads)
                }
                project(input, into: block)
                if let logits {
                    (logits.pointer + first * vocabulary).update(from: block.pointer, count: count * vocabulary)
                }
                let target = targets.baseAddress! + first
                if let scales {
                    scales.withUnsafeBufferPointer {
                        let (scales, losses) = ($0.baseAddress! + first, rowLosses.pointer + first)
                        guard let teacher, let taught else {
                            CrossEntropy.lossesAndGradient(
                                block.pointer, targets: target, into: losses, rows: count, classes: vocabulary,
                                scales: scales, threads: threads)
                            return
                        }
                        project(teacher.state.pointer + first * width, into: taught.logits)
                        CrossEntropy.distilled(
                            block.pointer, teacher: taught.logits.pointer, targets: target, losses: losses,
                            divergences: taught.divergence.pointer, rows: count, classes: vocabulary,
                            share: teacher.share, scales: scales, threads: threads)
                        for row in 0..<count { divergence += Double(taught.divergence.pointer[row]) }
                    }
                } else {
                    CrossEntropy.losses(
                        block.pointer, targets: target, into: rowLosses.pointer + first, rows: count,
                        classes: vocabulary,
                        threads: threads)
                    hits.withUnsafeMutableBufferPointer {
                        CrossEntropy.hits(
                            block.pointer, targets: target, into: $0.baseAddress! + first, rows: count,
                            classes: vocabulary, threads: threads)
                    }
                }
                guard withGradient else { continue }
                if let dx {
                    GEMM.multiply(
                        block.pointer, lda: vocabulary, weight.value.pointer, ldb: width, m: count, n: width,
                        k: vocabulary, accumulate: !dx.isFresh, into: dx.tensor.pointer + first * width, ldc: width,
                        threads: threads)
                }
                if blockRows == rows {
                    postponeLinearWeightGradient(block, x.value, weight: weight, bias: bias)
                } else {
                    accumulateLinearWeightGradient(
                        block.pointer, input, rows: count, weight: weight, bias: bias)
                }
            }
        }
        result.complete(rowLosses.array, divergence: divergence, hits: hits)
    }
}
