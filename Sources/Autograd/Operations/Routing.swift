import Glibc
import Kernels
import Tensors

// Moving rows between a residual stream and the tokens that take part in a recursion: Mixture-of-Recursions, arXiv
// 2507.10524. Every sum has the order of the rows.

extension Tape {
    /// Row `rows[i]` of `x [N, D]` as row `i`. A row may be named several times: its gradients are added in order.
    public func gathered(_ x: Variable, rows: [Int32]) -> Variable {
        let width = x.value.width
        checkRows(rows, below: x.value.rows, "gathered", lowest: 0)
        let y = context.tensor(Shape(rows.count, width))
        for (i, row) in rows.enumerated() {
            (y.pointer + i * width).update(from: x.value.pointer + Int(row) * width, count: width)
        }
        let result = output(y, from: x)
        record(result) { [context, threads] dy in
            let (dx, isFresh) = x.writableGradient(context)
            if isFresh { dx.fill(0) }
            for (i, row) in rows.enumerated() {
                Elementwise.add(
                    dy.pointer + i * width, to: dx.pointer + Int(row) * width, count: width, threads: threads)
            }
        }
        return result
    }

    /// `base`, with `base[rows[i]] + weight_i · x_i` in row `rows[i]`.
    ///
    /// - Parameters:
    ///   - base: `[N, D]`. - x: `[A, D]`.
    ///   - weight: one for each row of `x`; nil: ones.
    ///   - rows: `[A]`, distinct; rows of `x` whose number is negative fill up, and are left out.
    public func scatteredSum(_ base: Variable, adding x: Variable, weight: Variable?, rows: [Int32]) -> Variable {
        let width = x.value.width
        require(
            base.value.width == width && rows.count == x.value.rows
                && weight.map { $0.value.count == rows.count } ?? true,
            "scatteredSum: base \(base.shape), x \(x.shape), weight \(weight.map { "\($0.shape)" } ?? "none"), \(rows.count) rows"
        )
        checkRows(rows, below: base.value.rows, "scatteredSum", lowest: -1)
        let y = base.value.copied(pool: pool)
        for (i, row) in rows.enumerated() where row >= 0 {
            Elementwise.axpy(
                weight?.value.pointer[i] ?? 1, x.value.pointer + i * width, to: y.pointer + Int(row) * width,
                count: width, threads: threads)
        }
        let result = output(y, from: base, x, weight)
        record(result) { [context, threads] dy in
            base.accumulate(dy, context)
            let dx = x.needsGradient ? context.zeros(x.shape) : nil
            let dWeight = weight.flatMap { $0.needsGradient ? context.zeros($0.shape) : nil }
            for (i, row) in rows.enumerated() where row >= 0 {
                let source = dy.pointer + Int(row) * width
                if let dx {
                    Elementwise.scale(
                        source, by: weight?.value.pointer[i] ?? 1, into: dx.pointer + i * width, count: width,
                        threads: threads)
                }
                if let dWeight {
                    dWeight.pointer[i] = Float(
                        Reductions.dot(source, x.value.pointer + i * width, count: width, threads: threads))
                }
            }
            if let dx { x.accumulate(dx, context) }
            if let dWeight { weight?.accumulate(dWeight, context) }
        }
        return result
    }

    /// Column `columns[i]` of row `i` of `x [N, R]`, as `[N, 1]`.
    public func picked(_ x: Variable, columns: [Int32]) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        require(columns.count == rows, "picked: \(columns.count) columns of x \(x.shape); expected \(rows)")
        checkRows(columns, below: width, "picked", lowest: 0)
        let y = context.tensor(Shape(rows, 1))
        for (i, column) in columns.enumerated() { y.pointer[i] = x.value.pointer[i * width + Int(column)] }
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.zeros(x.shape)
            for (i, column) in columns.enumerated() { dx.pointer[i * width + Int(column)] = dy.pointer[i] }
            x.accumulate(dx, self.context)
        }
        return result
    }

    /// `softmax` of every row of `x [N, R]`.
    public func softmax(_ x: Variable) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        let y = context.tensor(x.shape)
        Softmax.forward(x.value.pointer, into: y.pointer, rows: rows, width: width, threads: threads)
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            Softmax.backward(
                dy.pointer, y: y.pointer, into: dx.pointer, rows: rows, width: width, threads: self.threads)
            x.accumulate(dx, self.context)
        }
        return result
    }

    private func checkRows(_ rows: [Int32], below count: Int, _ name: String, lowest: Int) {
        require(
            rows.allSatisfy { Int($0) >= lowest && Int($0) < count },
            "\(name): rows \(rows.min() ?? 0) to \(rows.max() ?? 0); expected \(lowest) ..< \(count)")
    }
}

/// The largest elements of a sequence's scores.
public enum TopK {
    /// The positions of the `count` largest of `scores`, ascending; of equal scores the first ones. A score that is not a
    /// number counts as the smallest.
    public static func select(_ scores: UnsafeBufferPointer<Float>, count: Int) -> [Int32] {
        require(0 <= count && count <= scores.count, "TopK: \(count) of \(scores.count) scores")
        func rank(_ score: Float) -> Float { score.isNaN ? -.infinity : score }
        let order = scores.indices.sorted { a, b in
            let (left, right) = (rank(scores[a]), rank(scores[b]))
            return left > right || (left == right && a < b)
        }
        return order.prefix(count).sorted().map(Int32.init)
    }
}
