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

    /// `base`, seen as rows of `C`, with some replaced: row `i` of `x [N, C]` takes the place of row `rows[i]`, or of none
    /// where that is negative. No row is replaced twice.
    public func replacingRows(_ base: Variable, with x: Variable, rows: [Int32]) -> Variable {
        let width = x.value.width
        require(
            base.value.count % width == 0 && rows.count == x.value.rows,
            "replacingRows: base \(base.shape), x \(x.shape), \(rows.count) rows")
        let y = base.value.copied(pool: pool)
        for (i, row) in rows.enumerated() where row >= 0 {
            (y.pointer + Int(row) * width).update(from: x.value.pointer + i * width, count: width)
        }
        let result = output(y, from: base, x)
        record(result) { dy in
            let dx = self.context.zeros(x.shape)
            let dBase = dy.copied(pool: self.pool)
            for (i, row) in rows.enumerated() where row >= 0 {
                let source = dBase.pointer + Int(row) * width
                (dx.pointer + i * width).update(from: source, count: width)
                source.update(repeating: 0, count: width)
            }
            x.accumulate(dx, self.context)
            base.accumulate(dBase, self.context)
        }
        return result
    }

    /// `x [R, C]` plus `factor` times row `row` of `bias [..., C]`, its leading axes taken as one: the bias of queries, or a
    /// learned signal of the step.
    public func addBias(_ x: Variable, _ bias: ParameterUse, row: Int, factor: Float = 1) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        require(
            (row + 1) * width <= bias.shape.count,
            "addBias '\(bias.parameter.name)': row \(row) of \(bias.shape) to x \(x.shape)")
        let y = context.tensor(x.shape)
        let scaled = context.tensor(Shape(width))
        Elementwise.scale(
            bias.value.pointer + row * width, by: factor, into: scaled.pointer, count: width, threads: threads)
        Elementwise.addBias(
            scaled.pointer, to: x.value.pointer, into: y.pointer, rows: rows, columns: width, threads: threads)
        let result = output(y, from: x, hasParameters: true)
        record(result) { [context, threads] dy in
            x.accumulate(dy, context)
            self.postpone {
                let sums = context.tensor(Shape(width))
                Reductions.columnSums(
                    dy.pointer, rows: rows, columns: width, accumulate: false, into: sums.pointer, threads: threads)
                Elementwise.axpy(
                    factor, sums.pointer, to: bias.gradient(context).pointer + row * width, count: width,
                    threads: threads)
            }
        }
        return result
    }

    /// Every head of `x [R, H·d]` `count` times in a row, `[R, H·count·d]`.
    public func repeatedHeads(_ x: Variable, headSize: Int, count: Int) -> Variable {
        if count == 1 { return x }
        let heads = x.value.count / headSize
        let y = context.tensor(Shape(x.value.rows, x.value.width * count))
        for i in 0..<heads * count {
            (y.pointer + i * headSize).update(from: x.value.pointer + i / count * headSize, count: headSize)
        }
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.zeros(x.shape)
            for i in 0..<heads * count {
                Elementwise.add(
                    dy.pointer + i * headSize, to: dx.pointer + i / count * headSize, count: headSize,
                    threads: self.threads)
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
