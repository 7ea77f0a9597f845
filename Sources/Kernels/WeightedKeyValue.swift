import CKernels

/// The weighted average of values of RWKV-4 (arXiv 2305.13048) over whole sequences, exponents relative to a running
/// maximum `o`: `y = (P + e^{u+k} v)/(Q + e^{u+k})`, `P ← e^w P + e^k v`, `Q ← e^w Q + e^k`, `P = p e^o`, `Q = q e^o`.
///
/// Legend: B batch, T time, C channels. A state is three planes `[3, B, C]`: p, q, o. One task is one sequence and 256
/// channels. Kept for the backward are the states before every 16th step.
public struct WeightedKeyValue {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// What a run reads: `k`, `v` `[B·T, C]`; `w`, `u` `[C]`.
    public struct Operands {
        public var k, v, w, u: Source

        public init(k: Source, v: Source, w: Source, u: Source) { (self.k, self.v, self.w, self.u) = (k, v, w, u) }
    }

    /// `o` of the zero state; −∞ would make NaN of its differences.
    public static let emptyExponent: Float = -1e38

    public let batch: Int
    public let time: Int
    public let channels: Int

    public init(batch: Int, time: Int, channels: Int) {
        require(
            batch >= 1 && time >= 1 && channels >= 1,
            "WeightedKeyValue: batch \(batch), time \(time), channels \(channels); expected at least 1")
        (self.batch, self.time, self.channels) = (batch, time, channels)
    }

    private static let stretchLength = CK_WKV_STEPS
    private var stretchCount: Int { (time + Self.stretchLength - 1) / Self.stretchLength }
    /// Distance between the planes of a state.
    private var plane: Int { batch * channels }

    /// Floats that a forward pass keeps for the backward.
    public var checkpointCount: Int { stretchCount * 3 * plane }

    /// - Parameters:
    ///   - state: `[3, B, C]`, on entry and exit.
    ///   - y: `[B·T, C]`, written.
    ///   - checkpoints: `checkpointCount` floats, written for the backward; nil when there will be none.
    public func forward(
        _ operands: Operands, state: Destination, into y: Destination, checkpoints: Destination?, threads: ThreadPool
    ) {
        forEachGroup(threads) { row, group in
            let at = row * channels + group.lowerBound
            for index in 0..<stretchCount {
                if let checkpoints {
                    for part in 0..<3 {
                        (checkpoints + (index * 3 + part) * plane + at).update(
                            from: state + part * plane + at, count: group.count)
                    }
                }
                let first = (row * time + index * Self.stretchLength) * channels + group.lowerBound
                var stretch = self.stretch(operands, index, first, group)
                ck_wkv_forward(&stretch, state + at, plane, y + first)
            }
        }
    }

    /// - Parameters:
    ///   - checkpoints: of the forward pass. - final: the state after it, `[3, B, C]`.
    ///   - dy: `[B·T, C]`.
    ///   - dState: `[3, B, C]`, gradient of the final state on entry, of the initial one on exit.
    ///   - dk, dv: `[B·T, C]`, written. - dwParts, duParts: `[B, C]`, a sequence's gradient of `w` and `u`, written.
    public func backward(
        _ operands: Operands, checkpoints: Source, final: Source, dy: Source, dState: Destination, dk: Destination,
        dv: Destination, dwParts: Destination, duParts: Destination, threads: ThreadPool
    ) {
        forEachGroup(threads) { row, group in
            let (at, count) = (row * channels + group.lowerBound, group.count)
            let (dp, dq, shift) = (dState + at, dState + plane + at, dState + 2 * plane + at)
            dwParts.advanced(by: at).update(repeating: 0, count: count)
            duParts.advanced(by: at).update(repeating: 0, count: count)
            withUnsafeTemporaryAllocation(of: Float.self, capacity: count) { scratch in
                let through = scratch.baseAddress!
                // What o receives beyond its part in P and Q; that part comes back at the initial state.
                ck_wkv_scale_gradient(through, dp, final + at, dq, final + plane + at, count)
                ck_subtract(shift, shift, through, count)
                for index in (0..<stretchCount).reversed() {
                    let first = (row * time + index * Self.stretchLength) * channels + group.lowerBound
                    var stretch = self.stretch(operands, index, first, group)
                    ck_wkv_backward(
                        &stretch, checkpoints + index * 3 * plane + at, dp, plane, dy + first, dk + first, dv + first,
                        dwParts + at, duParts + at)
                }
                ck_wkv_scale_gradient(through, dp, checkpoints + at, dq, checkpoints + plane + at, count)
                ck_add(shift, shift, through, count)
            }
        }
    }

    private func forEachGroup(_ threads: ThreadPool, _ body: (_ row: Int, _ group: Range<Int>) -> Void) {
        let groupCount = ChannelBlocks.groupCount(channels: channels)
        threads.run(batch * groupCount) { task, _ in
            body(task / groupCount, ChannelBlocks.group(task % groupCount, channels: channels))
        }
    }

    private func stretch(_ operands: Operands, _ index: Int, _ first: Int, _ group: Range<Int>) -> ck_wkv_stretch {
        ck_wkv_stretch(
            steps: min(Self.stretchLength, time - index * Self.stretchLength), channels: group.count, row: channels,
            k: operands.k + first, v: operands.v + first, w: operands.w + group.lowerBound,
            u: operands.u + group.lowerBound)
    }
}

/// Mixes each token with the one before it: `y_t = μ ⊙ x_t + (1 − μ) ⊙ x_{t−1}`.
///
/// Legend: B batch, T time, C channels; `before [B, C]` is the token ahead of each sequence, nil for zeros.
public enum TokenShift {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// - Parameter y: `[B·T, C]`, written.
    public static func forward(
        _ x: Source, before: Source?, mix: Source, into y: Destination, batch: Int, time: Int, channels: Int,
        threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: batch * time, width: channels) { row, count in
            for r in row..<row + count {
                ck_token_shift(
                    y + r * channels, x + r * channels, previous(x, before, r, time, channels), mix, channels)
            }
        }
    }

    /// `dx (+)= μ ⊙ dy_t + (1 − μ) ⊙ dy_{t+1}`, `dBefore = (1 − μ) ⊙ dy_0`.
    public static func inputGradient(
        _ dy: Source, mix: Source, accumulate: Bool, into dx: Destination, dBefore: Destination?, batch: Int,
        time: Int, channels: Int, threads: ThreadPool
    ) {
        threads.forEachRowPanel(of: batch * time, width: channels) { row, count in
            for r in row..<row + count {
                let isLast = r % time == time - 1
                ck_token_shift_input_gradient(
                    dx + r * channels, dy + r * channels, isLast ? nil : dy + (r + 1) * channels, mix, channels,
                    accumulate ? 1 : 0)
            }
        }
        guard let dBefore else { return }
        for b in 0..<batch {
            ck_token_shift_input_gradient(
                dBefore + b * channels, nil, dy + b * time * channels, mix, channels, 0)
        }
    }

    /// `parts[b] = Σ_t dy_t ⊙ (x_t − x_{t−1})`, `[B, C]`, written.
    public static func mixGradient(
        _ dy: Source, x: Source, before: Source?, into parts: Destination, batch: Int, time: Int, channels: Int,
        threads: ThreadPool
    ) {
        threads.run(batch) { b, _ in
            let sum = parts + b * channels
            sum.update(repeating: 0, count: channels)
            for r in b * time..<(b + 1) * time {
                ck_token_shift_mix_gradient(
                    sum, dy + r * channels, x + r * channels, previous(x, before, r, time, channels), channels)
            }
        }
    }

    private static func previous(_ x: Source, _ before: Source?, _ row: Int, _ time: Int, _ channels: Int) -> Source? {
        row % time == 0 ? before.map { $0 + row / time * channels } : x + (row - 1) * channels
    }
}
