import Kernels
import Tensors

extension Tape {
    /// Scores of one learned query against every token, `s_{t,h} = q_h · (W_k x_t)_h / √d` with `q = W_q token`.
    ///
    /// The query is the same everywhere, so it is folded into the keys' weight first, `[H, D]`, and no key is ever computed.
    /// - Parameters:
    ///   - x: `[R, D]`. - token: `[D]`. - queryWeight, keyWeight: `[H·d, D]`.
    /// - Returns: `[R, H]`.
    public func learnedQueryScores(
        _ x: Variable, token: ParameterUse, queryWeight: ParameterUse, keyWeight: ParameterUse, headCount: Int
    ) -> Variable {
        let (rows, width, heads) = (x.value.rows, x.value.width, queryWeight.shape[0])
        let size = heads / headCount, scale = Float(1 / Double(size).squareRoot())
        require(
            heads % headCount == 0 && token.shape.count == width && queryWeight.shape == keyWeight.shape
                && keyWeight.shape[1] == width,
            "learnedQueryScores: x \(x.shape), token \(token.shape), weights \(queryWeight.shape), \(keyWeight.shape)")
        let query = context.tensor(Shape(heads))
        GEMM.multiply(
            token.value.pointer, lda: width, queryWeight.value.pointer, transposeB: true, ldb: width, m: 1, n: heads,
            k: width, accumulate: false, into: query.pointer, ldc: heads, threads: threads)
        Elementwise.scale(query.pointer, by: scale, into: query.pointer, count: heads, threads: threads)
        let folded = context.tensor(Shape(headCount, width))
        for h in 0..<headCount {
            GEMM.multiply(
                query.pointer + h * size, lda: size, keyWeight.value.pointer + h * size * width, ldb: width, m: 1,
                n: width, k: size, accumulate: false, into: folded.pointer + h * width, ldc: width, threads: threads)
        }
        let scores = context.tensor(Shape(rows, headCount))
        GEMM.multiply(
            x.value.pointer, lda: width, folded.pointer, transposeB: true, ldb: width, m: rows, n: headCount,
            k: width, accumulate: false, into: scores.pointer, ldc: headCount, threads: threads)
        let result = output(scores, from: x, hasParameters: true)
        record(result) { dScores in
            if x.needsGradient {
                let (dx, isFresh) = x.writableGradient(self.context)
                GEMM.multiply(
                    dScores.pointer, lda: headCount, folded.pointer, ldb: width, m: rows, n: width, k: headCount,
                    accumulate: !isFresh, into: dx.pointer, ldc: width, threads: self.threads)
            }
            self.postpone { [context = self.context, threads = self.threads] in
                let dFolded = context.tensor(folded.shape)
                GEMM.multiply(
                    dScores.pointer, transposeA: true, lda: headCount, x.value.pointer, ldb: width, m: headCount,
                    n: width, k: rows, accumulate: false, into: dFolded.pointer, ldc: width, threads: threads)
                let dQuery = context.tensor(query.shape)
                let dKeyWeight = keyWeight.writableGradient(context)
                for h in 0..<headCount {
                    let row = dFolded.pointer + h * width, first = h * size * width
                    GEMM.multiply(
                        row, lda: width, keyWeight.value.pointer + first, transposeB: true, ldb: width, m: 1, n: size,
                        k: width, accumulate: false, into: dQuery.pointer + h * size, ldc: size, threads: threads)
                    GEMM.multiply(
                        query.pointer + h * size, transposeA: true, lda: size, row, ldb: width, m: size, n: width,
                        k: 1, accumulate: !dKeyWeight.isFresh, into: dKeyWeight.tensor.pointer + first, ldc: width,
                        threads: threads)
                }
                Elementwise.scale(dQuery.pointer, by: scale, into: dQuery.pointer, count: heads, threads: threads)
                let dQueryWeight = queryWeight.writableGradient(context)
                GEMM.multiply(
                    dQuery.pointer, transposeA: true, lda: heads, token.value.pointer, ldb: width, m: heads, n: width,
                    k: 1, accumulate: !dQueryWeight.isFresh, into: dQueryWeight.tensor.pointer, ldc: width,
                    threads: threads)
                let dToken = token.writableGradient(context)
                GEMM.multiply(
                    dQuery.pointer, lda: heads, queryWeight.value.pointer, ldb: width, m: 1, n: width, k: heads,
                    accumulate: !dToken.isFresh, into: dToken.tensor.pointer, ldc: width, threads: threads)
            }
        }
        return result
    }

    /// Mean of the values so far, weighted by the exponentials of the scores; see `RunningSoftmax`.
    ///
    /// - Parameters:
    ///   - scores: `[B·T, H]`. - v: `[B·T, H·d]`.
    ///   - state: `m [B, H]`, `u [B, H]`, `w [B, H, d]`; nil at a sequence's start. `m`, the running maximum, only scales the
    ///     others and carries no gradient.
    /// - Returns: output `[B·T, H·d]`, and the state after the chunk.
    public func runningSoftmax(
        scores: Variable, v: Variable, state: (m: Variable, u: Variable, w: Variable)?, batch: Int, time: Int
    ) -> (output: Variable, m: Variable, u: Variable, w: Variable) {
        let heads = scores.value.width, size = v.value.width / heads
        require(
            scores.value.rows == batch * time && v.value.rows == batch * time && v.value.width == heads * size,
            "runningSoftmax: scores \(scores.shape), v \(v.shape), B \(batch), T \(time)")
        let kernel = RunningSoftmax(batch: batch, time: time, headCount: heads, headSize: size)
        let (m, u) = (context.tensor(Shape(batch, heads)), context.tensor(Shape(batch, heads)))
        let w = context.tensor(Shape(batch, heads, size))
        if let state {
            m.copy(from: state.m.value)
            u.copy(from: state.u.value)
            w.copy(from: state.w.value)
        } else {
            m.fill(-.infinity)
            u.fill(0)
            w.fill(0)
        }
        let y = context.tensor(v.shape)
        let steps = (0..<3).map { _ in context.tensor(Shape(batch, heads, time)) }
        let kept = RunningSoftmax.Kept(weights: steps[0].pointer, shrinks: steps[1].pointer, sums: steps[2].pointer)
        kernel.forward(
            scores: scores.value.pointer, v: v.value.pointer, output: y.pointer, m: m.pointer, u: u.pointer,
            w: w.pointer, kept: kept, threads: threads)
        let result = output(y, from: scores, v, state?.u, state?.w)
        let uOut = Variable(u, needsGradient: result.needsGradient)
        let wOut = Variable(w, needsGradient: result.needsGradient)
        recordRaw {
            let (arrivedU, arrivedW) = (uOut.takeGradient(), wOut.takeGradient())
            let arrived = result.takeGradient()
            guard arrived != nil || arrivedU != nil || arrivedW != nil else { return }
            // The kernel overwrites them.
            let du = arrivedU?.copied(pool: self.pool) ?? self.context.zeros(u.shape)
            let dw = arrivedW?.copied(pool: self.pool) ?? self.context.zeros(w.shape)
            let dy = arrived ?? self.context.zeros(y.shape)
            let (dScores, dv) = (self.context.tensor(scores.shape), self.context.tensor(v.shape))
            withExtendedLifetime(steps) {
                kernel.backward(
                    dOutput: dy.pointer, output: y.pointer, v: v.value.pointer, kept: kept, dScores: dScores.pointer,
                    dv: dv.pointer, du: du.pointer, dw: dw.pointer, threads: self.threads)
            }
            scores.accumulate(dScores, self.context)
            v.accumulate(dv, self.context)
            state?.u.accumulate(du, self.context)
            state?.w.accumulate(dw, self.context)
        }
        return (result, Variable(m), uOut, wOut)
    }
}
