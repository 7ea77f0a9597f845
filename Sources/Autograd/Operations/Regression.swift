import Kernels
import Tensors

extension Tape {
    /// `mean (x − target)²` over all elements, summed in row order in Double; gradient `2 scale (x − target) / count`.
    ///
    /// - Parameters:
    ///   - target: `[R, D]` as `x`; a constant.
    ///   - scale: factor on the gradient; the value is returned without it.
    public func meanSquaredError(_ x: Variable, target: Tensor, scale: Float) -> Double {
        require(target.count == x.value.count, "meanSquaredError: x is \(x.shape), target \(target.shape)")
        let difference = context.tensor(x.shape)
        let count = difference.count
        Elementwise.subtract(
            x.value.pointer, target.pointer, into: difference.pointer, count: count, threads: threads)
        let sum = Reductions.sumOfSquares(difference.pointer, count: count, threads: threads)
        if x.needsGradient {
            recordRaw {
                let dx = self.context.tensor(x.shape)
                Elementwise.scale(
                    difference.pointer, by: 2 * scale / Float(count), into: dx.pointer, count: count,
                    threads: self.threads)
                x.accumulate(dx, self.context)
            }
        }
        return sum / Double(count)
    }

    /// `x ⊙ (1 + f)` with one factor for each column, `f` the columns from `first` of `factors [1, n]`.
    public func modulatedColumns(_ x: Variable, by factors: Variable, first: Int) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        require(
            factors.value.rows == 1 && first >= 0 && first + width <= factors.value.width,
            "modulatedColumns: x is \(x.shape), factors \(factors.shape) from column \(first)")
        let one = context.tensor(Shape(width))
        for i in 0..<width { one.pointer[i] = 1 + factors.value.pointer[first + i] }
        func modulated(_ x: Tensor) -> Tensor {
            let y = context.tensor(x.shape)
            for row in 0..<rows {
                Elementwise.multiply(
                    x.pointer + row * width, one.pointer, into: y.pointer + row * width, count: width, threads: threads)
            }
            return y
        }
        let result = output(modulated(x.value), from: x, factors)
        record(result) { dy in
            if x.needsGradient { x.accumulate(modulated(dy), self.context) }
            guard factors.needsGradient else { return }
            let products = self.context.tensor(x.shape)
            Elementwise.multiply(
                dy.pointer, x.value.pointer, into: products.pointer, count: dy.count, threads: self.threads)
            let gradient = self.context.zeros(factors.shape)
            Reductions.columnSums(
                products.pointer, rows: rows, columns: width, accumulate: false, into: gradient.pointer + first,
                threads: self.threads)
            factors.accumulate(gradient, self.context)
        }
        return result
    }
}
