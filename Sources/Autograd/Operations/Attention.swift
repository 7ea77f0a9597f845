import Kernels
import Tensors

/// Sizes and positions of one causal attention.
public struct AttentionGeometry {
    /// `B`, `T`.
    public let batch, time: Int
    /// `H`, `Hkv` (divides `H`), `d`.
    public let headCount, keyValueHeadCount, headSize: Int
    /// Position `i` sees `j` when `0 ≤ i − j < window`; nil: all `j ≤ i`.
    public let window: Int?
    /// Position of the first query in its sequence.
    public let positionOffset: Int
    /// `[B·T]`, the position of every row in its sequence when the rows are not consecutive; ascending within a
    /// sequence, where the last may be repeated to fill up. They set the rotary angles.
    public let positions: [Int32]?
    /// Base of the rotary angles; nil: no rotation.
    public let rotary: RotaryTable?

    public init(
        batch: Int, time: Int, headCount: Int, keyValueHeadCount: Int, headSize: Int, window: Int?,
        positionOffset: Int, positions: [Int32]? = nil, rotary: RotaryTable?
    ) {
        require(
            positions == nil || window == nil,
            "AttentionGeometry: window \(window ?? 0) with positions given one by one; expected none")
        self.batch = batch
        self.time = time
        self.headCount = headCount
        self.keyValueHeadCount = keyValueHeadCount
        self.headSize = headSize
        self.window = window
        self.positionOffset = positionOffset
        self.positions = positions
        self.rotary = rotary
    }
}

/// What ``Tape/attention(query:key:value:pastKey:pastValue:_:)`` returns.
public struct AttentionResult {
    /// `[B·T, H·d]`.
    public let output: Variable
    /// For the next chunk: what it can see.
    public let keys, values: Variable
    /// `[B, P + T, Hkv, d]`, all that this chunk saw, for other attention to share.
    public let allKeys, allValues: Variable
}

extension Tape {
    /// Causal softmax attention over the chunk's own keys and those carried from earlier chunks. A row sees the rows
    /// before it, whatever their positions.
    ///
    /// Keeps `O` and one log-sum-exp per row and head; scores are recomputed in the backward pass
    /// (arXiv 2205.14135).
    /// - Parameters:
    ///   - query: `[B·T, H·d]`. - key, value: `[B·T, Hkv·d]`.
    ///   - pastKey, pastValue: `[B, P, Hkv, d]` after rotation; nil for `P = 0`.
    public func attention(
        query: Variable, key: Variable, value: Variable, pastKey: Variable?, pastValue: Variable?,
        _ geometry: AttentionGeometry
    ) -> AttentionResult {
        let (batch, time, size) = (geometry.batch, geometry.time, geometry.headSize)
        let keyValueWidth = geometry.keyValueHeadCount * size
        let past = pastKey?.shape[1] ?? 0
        let keyCount = past + time
        let shape = AttentionShape(
            batch: batch, tokens: time, keys: keyCount, queryHeads: geometry.headCount,
            keyValueHeads: geometry.keyValueHeadCount, headWidth: size, causal: true, window: geometry.window)

        let rotatedQuery = rotated(query.value, heads: geometry.headCount, geometry)
        let rotatedKey = rotated(key.value, heads: geometry.keyValueHeadCount, geometry)
        let keyShape = Shape(batch, keyCount, geometry.keyValueHeadCount, size)
        let keys = joined(pastKey?.value, rotatedKey, keyShape, past: past)
        let values = joined(pastValue?.value, value.value, keyShape, past: past)

        let y = context.tensor(Shape(batch * time, geometry.headCount * size))
        let logSumExp = context.tensor(Shape(batch, geometry.headCount, time))
        Attention.forward(
            q: rotatedQuery.pointer, k: keys.pointer, v: values.pointer, output: y.pointer,
            logSumExp: logSumExp.pointer, shape: shape, threads: threads)

        let result = output(y, from: query, key, value, pastKey, pastValue)
        let kept = min(keyCount, (geometry.window ?? Int.max - 1) - 1)
        let keysOut = carried(keys, keep: kept, needsGradient: result.needsGradient)
        let valuesOut = carried(values, keep: kept, needsGradient: result.needsGradient)
        let allKeys = Variable(keys, needsGradient: result.needsGradient)
        let allValues = Variable(values, needsGradient: result.needsGradient)
        recordRaw {
            let dy = result.takeGradient()
            let carriedKeyGradient = keysOut.takeGradient()
            let carriedValueGradient = valuesOut.takeGradient()
            let sharedKeyGradient = allKeys.takeGradient()
            let sharedValueGradient = allValues.takeGradient()
            let others = [carriedKeyGradient, carriedValueGradient, sharedKeyGradient, sharedValueGradient]
            guard dy != nil || others.contains(where: { $0 != nil }) else { return }
            let dQuery = self.context.tensor(query.shape)
            let dKeys = self.context.tensor(keyShape)
            let dValues = self.context.tensor(keyShape)
            if let dy {
                let delta = self.context.tensor(logSumExp.shape)
                Attention.backward(
                    dOutput: dy.pointer, q: rotatedQuery.pointer, k: keys.pointer, v: values.pointer,
                    output: y.pointer, logSumExp: logSumExp.pointer, dq: dQuery.pointer, dk: dKeys.pointer,
                    dv: dValues.pointer, delta: delta.pointer, shape: shape, threads: self.threads)
            } else {
                for tensor in [dQuery, dKeys, dValues] { tensor.fill(0) }
            }
            self.addTail(carriedKeyGradient, to: dKeys, keep: kept)
            self.addTail(carriedValueGradient, to: dValues, keep: kept)
            self.addTail(sharedKeyGradient, to: dKeys, keep: keyCount)
            self.addTail(sharedValueGradient, to: dValues, keep: keyCount)

            if query.needsGradient {
                query.accumulate(
                    self.rotated(dQuery, heads: geometry.headCount, geometry, inverse: true), self.context)
            }
            let (pastKeyGradient, dKey) = self.split(dKeys, past: past, width: keyValueWidth)
            let (pastValueGradient, dValue) = self.split(dValues, past: past, width: keyValueWidth)
            if key.needsGradient {
                key.accumulate(
                    self.rotated(dKey, heads: geometry.keyValueHeadCount, geometry, inverse: true), self.context)
            }
            value.accumulate(dValue, self.context)
            if let pastKeyGradient { pastKey?.accumulate(pastKeyGradient, self.context) }
            if let pastValueGradient { pastValue?.accumulate(pastValueGradient, self.context) }
        }
        return AttentionResult(
            output: result, keys: keysOut, values: valuesOut, allKeys: allKeys, allValues: allValues)
    }

    /// Causal softmax attention to keys and values that another pass over the sequences has made: a query at position
    /// `p` sees those of the positions `0...p`, or of the last `window`, whichever queries it is computed with.
    ///
    /// - Parameters:
    ///   - query: `[B·T, H·d]`, before rotation: the chunk, or with positions of their own any selection of each
    ///     sequence's tokens.
    ///   - sharedKeys, sharedValues: `[B, S, Hkv, d]`, keys after rotation: the `S` positions up to the end of the
    ///     chunk, all there are unless there is a window.
    /// - Returns: `[B·T, H·d]`.
    public func attention(
        query: Variable, sharedKeys keys: Variable, sharedValues values: Variable, _ geometry: AttentionGeometry
    ) -> Variable {
        let (batch, time, size) = (geometry.batch, geometry.time, geometry.headSize)
        let keyCount = keys.value.count / (batch * geometry.keyValueHeadCount * size)
        let keyShape = Shape(batch, keyCount, geometry.keyValueHeadCount, size)
        require(
            keys.value.count == keyShape.count && values.value.count == keyShape.count,
            "attention: shared keys \(keys.shape), values \(values.shape); expected \(keyShape)")
        let shape = AttentionShape(
            batch: batch, tokens: time, keys: keyCount, queryHeads: geometry.headCount,
            keyValueHeads: geometry.keyValueHeadCount, headWidth: size, window: geometry.window)
        let visible = geometry.positions?.map { $0 + 1 }

        let rotatedQuery = rotated(query.value, heads: geometry.headCount, geometry)
        let y = context.tensor(query.shape)
        let logSumExp = context.tensor(Shape(batch, geometry.headCount, time))
        Attention.forward(
            q: rotatedQuery.pointer, k: keys.value.pointer, v: values.value.pointer, visible: visible,
            output: y.pointer, logSumExp: logSumExp.pointer, shape: shape, threads: threads)
        let result = output(y, from: query, keys, values)
        record(result) { dy in
            let dQuery = self.context.tensor(query.shape)
            let dKeys = self.context.tensor(keyShape)
            let dValues = self.context.tensor(keyShape)
            let delta = self.context.tensor(logSumExp.shape)
            Attention.backward(
                dOutput: dy.pointer, q: rotatedQuery.pointer, k: keys.value.pointer, v: values.value.pointer,
                visible: visible, output: y.pointer, logSumExp: logSumExp.pointer, dq: dQuery.pointer,
                dk: dKeys.pointer, dv: dValues.pointer, delta: delta.pointer, shape: shape, threads: self.threads)
            if query.needsGradient {
                query.accumulate(
                    self.rotated(dQuery, heads: geometry.headCount, geometry, inverse: true), self.context)
            }
            keys.accumulate(dKeys, self.context)
            values.accumulate(dValues, self.context)
        }
        return result
    }

    /// Rotary positions of `x [B·T, H·d]`, `d` and the pairs those of the table (arXiv 2104.09864).
    /// - Parameter positions: as in ``AttentionGeometry``.
    public func rotary(
        _ x: Variable, _ batch: Int, _ time: Int, positionOffset: Int, positions: [Int32]? = nil, _ table: RotaryTable
    ) -> Variable {
        let heads = x.value.width / table.headWidth
        func rotated(_ x: Tensor, inverse: Bool) -> Tensor {
            let y = context.tensor(x.shape)
            RotaryEmbedding.apply(
                x.pointer, into: y.pointer, batch: batch, tokens: time, heads: heads, start: positionOffset,
                positions: positions, table: table, inverse: inverse, threads: threads)
            return y
        }
        let result = output(rotated(x.value, inverse: false), from: x)
        record(result) { dy in x.accumulate(rotated(dy, inverse: true), self.context) }
        return result
    }

    private func rotated(_ x: Tensor, heads: Int, _ geometry: AttentionGeometry, inverse: Bool = false) -> Tensor {
        guard let table = geometry.rotary else { return x }
        let y = context.tensor(x.shape)
        RotaryEmbedding.apply(
            x.pointer, into: y.pointer, batch: geometry.batch, tokens: geometry.time, heads: heads,
            start: geometry.positionOffset, positions: geometry.positions, table: table, inverse: inverse,
            threads: threads)
        return y
    }

    /// Past and current rows of every sequence, one after the other.
    private func joined(_ past: Tensor?, _ current: Tensor, _ shape: Shape, past count: Int) -> Tensor {
        guard let past, count > 0 else { return current.reshaped(shape) }
        let width = shape[2] * shape[3]
        let new = shape[1] - count
        let result = context.tensor(shape)
        for b in 0..<shape[0] {
            let target = result.pointer + b * shape[1] * width
            target.update(from: past.pointer + b * count * width, count: count * width)
            (target + count * width).update(from: current.pointer + b * new * width, count: new * width)
        }
        return result
    }

    /// The last `keep` rows of every sequence: all that later queries can see.
    private func carried(_ all: Tensor, keep: Int, needsGradient: Bool) -> Variable {
        let (batch, count, width) = (all.shape[0], all.shape[1], all.shape[2] * all.shape[3])
        if keep == count { return Variable(all, needsGradient: needsGradient) }
        let result = context.tensor(Shape(batch, max(keep, 0), all.shape[2], all.shape[3]))
        for b in 0..<batch {
            (result.pointer + b * keep * width)
                .update(from: all.pointer + (b * count + count - keep) * width, count: keep * width)
        }
        return Variable(result, needsGradient: needsGradient)
    }

    private func addTail(_ tail: Tensor?, to all: Tensor, keep: Int) {
        guard let tail, keep > 0 else { return }
        let (batch, count, width) = (all.shape[0], all.shape[1], all.shape[2] * all.shape[3])
        for b in 0..<batch {
            Elementwise.add(
                tail.pointer + b * keep * width, to: all.pointer + (b * count + count - keep) * width,
                count: keep * width, threads: threads)
        }
    }

    private func split(_ all: Tensor, past: Int, width: Int) -> (past: Tensor?, current: Tensor) {
        let (batch, count) = (all.shape[0], all.shape[1])
        guard past > 0 else { return (nil, all.reshaped(Shape(batch * count, width))) }
        let new = count - past
        let old = context.tensor(Shape(batch, past, all.shape[2], all.shape[3]))
        let current = context.tensor(Shape(batch * new, width))
        for b in 0..<batch {
            let source = all.pointer + b * count * width
            (old.pointer + b * past * width).update(from: source, count: past * width)
            (current.pointer + b * new * width).update(from: source + past * width, count: new * width)
        }
        return (old, current)
    }
}
