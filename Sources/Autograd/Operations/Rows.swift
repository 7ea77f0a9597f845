import Kernels
import Tensors

extension Tape {
    /// Rows of `x [R, C]` in another order: row `i` of the result is columns `columns` of row `rows[i]`, or zeros where that
    /// is negative. No row is named twice.
    public func gathered(_ x: Variable, columns: Range<Int>, rows: [Int32]) -> Variable {
        let (width, count) = (x.value.width, columns.count)
        let y = context.tensor(Shape(rows.count, count))
        for (i, row) in rows.enumerated() {
            let target = y.pointer + i * count
            if row < 0 {
                target.update(repeating: 0, count: count)
            } else {
                target.update(from: x.value.pointer + Int(row) * width + columns.lowerBound, count: count)
            }
        }
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.zeros(x.shape)
            for (i, row) in rows.enumerated() where row >= 0 {
                (dx.pointer + Int(row) * width + columns.lowerBound)
                    .update(from: dy.pointer + i * count, count: count)
            }
            x.accumulate(dx, self.context)
        }
        return result
    }

    /// `y[r, h, :] = factor[r, h] · x[r, h, :]`, `x [R, H·P]`, `factor [R, H]`.
    public func scaledHeads(_ x: Variable, by factor: Variable) -> Variable {
        let heads = factor.value.count
        let size = x.value.count / heads
        let y = context.tensor(x.shape)
        for h in 0..<heads {
            let scale = factor.value.pointer[h]
            for i in h * size..<(h + 1) * size { y.pointer[i] = scale * x.value.pointer[i] }
        }
        let result = output(y, from: x, factor)
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            let dFactor = self.context.tensor(factor.shape)
            for h in 0..<heads {
                let scale = factor.value.pointer[h]
                var sum: Float = 0
                for i in h * size..<(h + 1) * size {
                    dx.pointer[i] = scale * dy.pointer[i]
                    sum += dy.pointer[i] * x.value.pointer[i]
                }
                dFactor.pointer[h] = sum
            }
            x.accumulate(dx, self.context)
            factor.accumulate(dFactor, self.context)
        }
        return result
    }
}
