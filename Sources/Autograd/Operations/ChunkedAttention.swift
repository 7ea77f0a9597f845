import Kernels
import Tensors

extension Tape {
    /// Two affine copies of every row side by side: `y = [x ⊙ w_0 + b_0 | x ⊙ w_1 + b_1]`.
    ///
    /// - Parameters:
    ///   - x: `[R, Z]`. - weight, bias: `[2, Z]`.
    /// - Returns: `[R, 2Z]`.
    public func affinePair(_ x: Variable, weight: ParameterUse, bias: ParameterUse) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        require(
            weight.shape == Shape(2, width) && bias.shape == Shape(2, width),
            "affinePair '\(weight.parameter.name)': x is \(x.shape), weight \(weight.shape), bias \(bias.shape)")
        // Both copies of x, times a row of either parameter.
        func twice(_ x: Tensor, times weight: Tensor?, into y: Tensor) {
            for row in 0..<rows {
                for half in 0..<2 {
                    let target = y.pointer + (2 * row + half) * width, source = x.pointer + row * width
                    if let weight {
                        for c in 0..<width { target[c] = source[c] * weight.pointer[half * width + c] }
                    } else {
                        target.update(from: source, count: width)
                    }
                }
            }
        }
        let y = context.tensor(Shape(rows, 2 * width))
        twice(x.value, times: weight.value, into: y)
        Elementwise.addBias(
            bias.value.pointer, to: y.pointer, into: y.pointer, rows: rows, columns: 2 * width, threads: threads)
        let result = output(y, from: x, hasParameters: true)
        record(result) { dy in
            if x.needsGradient {
                let dx = self.context.tensor(x.shape)
                for row in 0..<rows {
                    let (first, target) = (dy.pointer + 2 * row * width, dx.pointer + row * width)
                    for c in 0..<width {
                        target[c] =
                            first[c] * weight.value.pointer[c] + first[width + c] * weight.value.pointer[width + c]
                    }
                }
                x.accumulate(dx, self.context)
            }
            let dWeight = self.context.tensor(y.shape)
            twice(x.value, times: nil, into: dWeight)
            Elementwise.multiply(
                dWeight.pointer, dy.pointer, into: dWeight.pointer, count: dy.count, threads: self.threads)
            self.postponeColumnSums(dWeight, into: weight)
            self.postponeColumnSums(dy, into: bias)
        }
        return result
    }

    /// Causal attention of one head within chunks of `C` tokens; see `ChunkedAttention`.
    ///
    /// - Parameters:
    ///   - queriesAndKeys: `[B·T, 2Z]`, queries in the first half of a row. - values: `[B·T, V]`.
    ///   - bias: `[2C − 1]`.
    ///   - past: keys `[B, P, Z]` and values `[B, P, V]` of the chunk that the first token continues; nil: it starts one.
    /// - Returns: output `[B·T, V]`, and keys and values of the chunk that the last token leaves unfinished, if it does.
    public func chunkedAttention(
        queriesAndKeys qk: Variable, values v: Variable, bias: ParameterUse, past: (k: Variable, v: Variable)?,
        batch: Int, time: Int, chunk: Int, weighting: ChunkedAttention.Weighting
    ) -> (output: Variable, past: (k: Variable, v: Variable)?) {
        let (size, valueWidth) = (qk.value.width / 2, v.value.width), before = past?.k.shape[1] ?? 0
        require(
            qk.value.rows == batch * time && v.value.rows == batch * time && bias.shape.count == 2 * chunk - 1,
            "chunkedAttention: q, k \(qk.shape), v \(v.shape), bias \(bias.shape); B \(batch), T \(time), C \(chunk)")
        let kernel = ChunkedAttention(
            batch: batch, time: time, chunk: chunk, past: before, keyWidth: size, valueWidth: valueWidth,
            weighting: weighting)
        let first = kernel.firstCount

        // Past rows and the first own ones, one after the other; `source` starts at the first column wanted.
        func joined(_ past: Tensor?, _ source: UnsafePointer<Float>, stride: Int, width: Int) -> Tensor? {
            guard let past else { return nil }
            let result = context.tensor(Shape(batch, before + first, width))
            for b in 0..<batch {
                let target = result.pointer + b * (before + first) * width
                target.update(from: past.pointer + b * before * width, count: before * width)
                for t in 0..<first {
                    (target + (before + t) * width).update(from: source + (b * time + t) * stride, count: width)
                }
            }
            return result
        }
        let keyRows = qk.value.pointer + size
        let joinedKeys = joined(past?.k.value, keyRows, stride: 2 * size, width: size)
        let joinedValues = joined(past?.v.value, v.value.pointer, stride: valueWidth, width: valueWidth)
        let keys = ChunkedAttention.Source(keyRows, stride: 2 * size, joined: joinedKeys?.pointer)
        let values = ChunkedAttention.Source(v.value.pointer, stride: valueWidth, joined: joinedValues?.pointer)
        let y = context.tensor(Shape(batch * time, valueWidth))
        kernel.forward(
            q: qk.value.pointer, queryStride: 2 * size, keys: keys, values: values, bias: bias.value.pointer,
            output: y.pointer, threads: threads)
        let result = output(y, from: qk, v, past?.k, past?.v, hasParameters: true)

        // The chunk left unfinished: `kept` rows, of which the last `own` come from this call.
        let kept = (before + time) % chunk, own = min(kept, time), old = kept - own
        func carried(_ past: Tensor?, _ source: UnsafePointer<Float>, stride: Int, width: Int) -> Variable {
            let rows = context.tensor(Shape(batch, kept, width))
            for b in 0..<batch {
                let target = rows.pointer + b * kept * width
                if let past, old > 0 { target.update(from: past.pointer + b * before * width, count: old * width) }
                for t in 0..<own {
                    (target + (old + t) * width).update(
                        from: source + (b * time + time - own + t) * stride, count: width)
                }
            }
            return Variable(rows, needsGradient: result.needsGradient)
        }
        let carry: (k: Variable, v: Variable)? =
            kept == 0
            ? nil
            : (
                carried(past?.k.value, keyRows, stride: 2 * size, width: size),
                carried(past?.v.value, v.value.pointer, stride: valueWidth, width: valueWidth)
            )

        recordRaw {
            let (dCarryKeys, dCarryValues) = (carry?.k.takeGradient(), carry?.v.takeGradient())
            let arrived = result.takeGradient()
            guard arrived != nil || dCarryKeys != nil || dCarryValues != nil else { return }
            let dy = arrived ?? self.context.zeros(y.shape)
            let (dqk, dv) = (self.context.zeros(qk.shape), self.context.zeros(v.shape))
            let dJoinedKeys = joinedKeys.map { self.context.zeros($0.shape) }
            let dJoinedValues = joinedValues.map { self.context.zeros($0.shape) }
            let dBias = self.context.tensor(Shape(batch * kernel.segmentCount, 2 * chunk - 1))
            kernel.backward(
                dOutput: dy.pointer, q: qk.value.pointer, queryStride: 2 * size, keys: keys, values: values,
                bias: bias.value.pointer, dq: dqk.pointer,
                dKeys: ChunkedAttention.Source(dqk.pointer + size, stride: 2 * size, joined: dJoinedKeys?.pointer),
                dValues: ChunkedAttention.Source(dv.pointer, stride: valueWidth, joined: dJoinedValues?.pointer),
                dBias: dBias.pointer, threads: self.threads)

            /// Hands what arrived at joined and carried rows to the own rows `target`; returns the past's part.
            func split(
                _ dJoined: Tensor?, _ dCarried: Tensor?, into target: UnsafeMutablePointer<Float>, stride: Int,
                width: Int
            ) -> Tensor? {
                let dPast = dJoined.map { _ in self.context.zeros(Shape(batch, before, width)) }
                func add(_ source: UnsafeMutablePointer<Float>, _ row: UnsafeMutablePointer<Float>) {
                    Elementwise.add(source, to: row, count: width, threads: self.threads)
                }
                for b in 0..<batch {
                    if let dJoined, let dPast {
                        let source = dJoined.pointer + b * (before + first) * width
                        for t in 0..<before { add(source + t * width, dPast.pointer + (b * before + t) * width) }
                        for t in 0..<first {
                            add(source + (before + t) * width, target + (b * time + t) * stride)
                        }
                    }
                    guard let dCarried else { continue }
                    let source = dCarried.pointer + b * kept * width
                    if let dPast {
                        for t in 0..<old { add(source + t * width, dPast.pointer + (b * before + t) * width) }
                    }
                    for t in 0..<own {
                        add(source + (old + t) * width, target + (b * time + time - own + t) * stride)
                    }
                }
                return dPast
            }
            let dPastKeys = split(
                dJoinedKeys, dCarryKeys, into: dqk.pointer + size, stride: 2 * size, width: size)
            let dPastValues = split(
                dJoinedValues, dCarryValues, into: dv.pointer, stride: valueWidth, width: valueWidth)
            qk.accumulate(dqk, self.context)
            v.accumulate(dv, self.context)
            if let dPastKeys { past?.k.accumulate(dPastKeys, self.context) }
            if let dPastValues { past?.v.accumulate(dPastValues, self.context) }
            self.postponeColumnSums(dBias, into: bias)
            withExtendedLifetime((joinedKeys, joinedValues)) {}
        }
        return (result, carry)
    }
}
