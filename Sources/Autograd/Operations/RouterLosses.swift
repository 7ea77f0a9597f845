import Glibc
import Kernels
import Tensors

// Auxiliary losses of routers (arXiv 2507.10524). Each returns its value, rows added in order in `Double`, and when the
// tape runs backwards adds `scale` times its gradient to that of the logits or gates.

extension Tape {
    /// `mean_i −y_i log σ(z_i) − (1 − y_i) log σ(−z_i)` over all elements of `z`.
    public func binaryCrossEntropy(_ z: Variable, labels: [Bool], scale: Float) -> Double {
        let count = z.value.count
        require(labels.count == count, "binaryCrossEntropy: \(labels.count) labels for z \(z.shape)")
        let logits = z.value.pointer
        let sum = (0..<count).reduce(0.0) { sum, i in
            let margin = Double(labels[i] ? logits[i] : -logits[i])
            return sum + max(-margin, 0) + log1p(exp(-abs(margin)))
        }
        recordLoss(z) { dz in
            Activations.forward(.sigmoid, logits.constant, into: dz, count: count, threads: self.threads)
            for i in 0..<count { dz[i] = (dz[i] - (labels[i] ? 1 : 0)) * scale / Float(count) }
        }
        return sum / Double(count)
    }

    /// `mean_i z_i²`: keeps logits small.
    public func squaredMean(_ z: Variable, scale: Float) -> Double {
        let count = z.value.count
        let sum = (0..<count).reduce(0.0) { $0 + Double(z.value.pointer[$1]) * Double(z.value.pointer[$1]) }
        recordLoss(z) { dz in
            Elementwise.scale(
                z.value.pointer, by: 2 * scale / Float(count), into: dz, count: count, threads: self.threads)
        }
        return sum / Double(count)
    }

    /// `mean_t (log Σ_j e^{z_tj})²`, `z [N, R]`.
    public func logSumExpSquaredMean(_ z: Variable, scale: Float) -> Double {
        let (rows, width) = (z.value.rows, z.value.width)
        let logSumExp = context.tensor(Shape(rows))
        Softmax.logSumExp(z.value.pointer, into: logSumExp.pointer, rows: rows, width: width, threads: threads)
        let sum = (0..<rows).reduce(0.0) { $0 + Double(logSumExp.pointer[$1]) * Double(logSumExp.pointer[$1]) }
        recordLoss(z) { dz in
            Softmax.forward(z.value.pointer, into: dz, rows: rows, width: width, threads: self.threads)
            for row in 0..<rows {
                let factor = 2 * scale / Float(rows) * logSumExp.pointer[row]
                for column in row * width..<(row + 1) * width { dz[column] *= factor }
            }
        }
        return sum / Double(rows)
    }

    /// `mean_g Σ_j P_gj f_gj` over groups `g` of consecutive rows: `P_gj` the mean of column `j`, `f_gj` the number of columns
    /// times the share of the group's rows that chose `j`, which is a constant.
    ///
    /// - Parameters:
    ///   - gates: `[N, R]`. - choices: `[N]`, below `R`.
    ///   - groupRows: a sequence's length, for a value that does not depend on how sequences are grouped into
    ///     micro-batches, or `N`. Divides `N`.
    public func balanceLoss(_ gates: Variable, choices: [Int32], groupRows: Int, scale: Float) -> Double {
        let (rows, width) = (gates.value.rows, gates.value.width)
        require(
            choices.count == rows && groupRows > 0 && rows % groupRows == 0,
            "balanceLoss: gates \(gates.shape), \(choices.count) choices, groups of \(groupRows) rows")
        var factors = [Float](repeating: 0, count: rows / groupRows * width)
        for (row, choice) in choices.enumerated() {
            factors[row / groupRows * width + Int(choice)] += Float(width) / Float(groupRows)
        }
        var sum = 0.0
        for i in 0..<rows * width {
            sum += Double(gates.value.pointer[i]) * Double(factors[i / width / groupRows * width + i % width])
        }
        recordLoss(gates) { dGates in
            for i in 0..<rows * width {
                dGates[i] = factors[i / width / groupRows * width + i % width] * scale / Float(rows)
            }
        }
        return sum / Double(rows)
    }

    private func recordLoss(_ x: Variable, _ gradient: @escaping (UnsafeMutablePointer<Float>) -> Void) {
        guard x.needsGradient else { return }
        recordRaw {
            let dx = self.context.tensor(x.shape)
            gradient(dx.pointer)
            x.accumulate(dx, self.context)
        }
    }
}
