import CKernels

/// A time-invariant state space per channel, its transition diagonal or diagonal plus rank one (S4D, S4):
/// `s = Re Σ_n w_n x_n`, `x ← a x + b u + f s`, `y = Re Σ_n c_n x_n + D u` with `N` complex states; or semiseparable, on
/// `2N` real states j: `x_j ← a_j x_j + b_j u + h_j g_{j−1} + m_j w_{j+1}` where `g_j = p_j x_j + l_j g_{j−1}` and
/// `w_j = g_j + v_j w_{j+1}` (LSSL).
///
/// Legend: B batch, T time, C channels, N states, K = 6, 10 or 16 numbers per state: a, b, c (f, w), each real and
/// imaginary; or a, b, c, h, p, l, v, m of each of two real states.
/// One task is 256 channels: of one sequence; or, with a semiseparable transition, of four or two sequences together where
/// the batch is a multiple, which share what is read of the table. Kept for the backward are the states before every 32nd step;
/// the others are computed again.
public struct StateSpaceScan {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    public let batch: Int
    public let time: Int
    public let channels: Int
    public let states: Int
    /// `K` above.
    public let columns: Int

    public enum Transition: CaseIterable, Sendable {
        case diagonal, diagonalPlusRankOne, semiseparable

        /// `K` above.
        public var columns: Int {
            switch self {
            case .diagonal: CK_STATE_SPACE_DIAGONAL
            case .diagonalPlusRankOne: CK_STATE_SPACE_RANK_ONE
            case .semiseparable: CK_STATE_SPACE_SEMISEPARABLE
            }
        }
    }

    public init(batch: Int, time: Int, channels: Int, states: Int, transition: Transition) {
        require(
            batch >= 1 && time >= 1 && channels >= 1 && states >= 1,
            "StateSpaceScan: batch \(batch), time \(time), channels \(channels), states \(states); expected at least 1")
        (self.batch, self.time, self.channels, self.states) = (batch, time, channels, states)
        columns = transition.columns
        bundleSize = transition != .semiseparable || batch % 2 > 0 ? 1 : batch % 4 > 0 ? 2 : 4
    }

    /// Sequences side by side in a vector, of `16 / bundleSize` channels each.
    private let bundleSize: Int
    private var lanes: Int { 16 / bundleSize }
    private var bundleCount: Int { batch / bundleSize }

    private static let stretchLength = CK_STATE_SPACE_STEPS
    private var stretchCount: Int { (time + Self.stretchLength - 1) / Self.stretchLength }
    private var groupCount: Int { ChannelBlocks.groupCount(channels: channels, sequences: bundleSize) }
    private var packedStateCount: Int { packedCount(channels: channels, width: 2 * states) }

    /// Floats of a table in blocks.
    public var packedTableCount: Int { packedCount(channels: channels, width: states * columns) / bundleSize }
    /// Floats of the gradients of a table that a backward pass writes.
    public var tablePartsCount: Int { bundleCount * packedTableCount }
    /// Floats that a forward pass keeps for the backward.
    public var checkpointCount: Int { bundleCount * stretchCount * packedStateCount }

    private func packedCount(channels: Int, width: Int) -> Int {
        ChannelBlocks.floats(channels: channels * bundleSize, width: width)
    }

    /// - Parameter table: `[C, N, K]`.
    public func packTable(_ table: Source, into packed: Destination) {
        packed.update(repeating: 0, count: packedTableCount)
        ChannelBlocks.copy(
            table, channels: channels, width: states * columns, lanes: lanes, stride: lanes, into: packed)
    }

    /// Adds up the gradients of the sequences, in their order.
    /// - Parameters:
    ///   - parts: of the backward pass; its first `packedTableCount` floats are overwritten by the sum.
    ///   - table: `[C, N, K]`, written.
    public func sumTableParts(_ parts: Destination, into table: Destination) {
        for bundle in 1..<bundleCount {
            ck_add(parts, parts, parts + bundle * packedTableCount, packedTableCount)
        }
        ChannelBlocks.unpack(
            parts, channels: channels, width: states * columns, lanes: lanes, stride: lanes, into: table)
    }

    /// - Parameters:
    ///   - u: `[B·T, C]`. - table: in blocks. - skip: `D [C]`.
    ///   - stateIn: `[B, C, N, 2]`; nil is zero.
    ///   - y: `[B·T, C]`, written.
    ///   - stateOut: `[B, C, N, 2]`, written.
    ///   - checkpoints: `checkpointCount` floats, written for the backward; nil when there will be none.
    public func forward(
        _ u: Source, table: Source, skip: Source, stateIn: Source?, into y: Destination, stateOut: Destination,
        checkpoints: Destination?, threads: ThreadPool
    ) {
        run(threads) { task, worker in
            let count = packedCount(channels: task.channels.count, width: 2 * states)
            let x = threads.scratch(worker: worker, floats: count + 32 * states)
            pack(stateIn, width: 2 * states, task, into: x)
            for index in 0..<stretchCount {
                if let checkpoints { checkpoint(checkpoints, index, task).update(from: x, count: count) }
                let at = offset(index, task)
                var stretch = self.stretch(index, u + at, table: table, skip: skip, task)
                ck_state_space_forward(&stretch, x, y + at, channels, x + count)
            }
            unpack(x, width: 2 * states, task, into: stateOut)
        }
    }

    /// - Parameters:
    ///   - checkpoints: of the forward pass.
    ///   - dy: `[B·T, C]`.
    ///   - dStateOut: `[B, C, N, 2]`; nil is zero.
    ///   - du: `[B·T, C]`, written.
    ///   - tableParts: `tablePartsCount` floats, written, for `sumTableParts`.
    ///   - skipParts: `[B, C]`, written: a sequence's gradient of D.
    ///   - dStateIn: `[B, C, N, 2]`, written.
    public func backward(
        _ u: Source, table: Source, skip: Source, checkpoints: Destination, dy: Source, dStateOut: Source?,
        into du: Destination, tableParts: Destination, skipParts: Destination, dStateIn: Destination,
        threads: ThreadPool
    ) {
        run(threads) { task, worker in
            let count = packedCount(channels: task.channels.count, width: 2 * states)
            let skipCount = packedCount(channels: task.channels.count, width: 1)
            let g = threads.scratch(worker: worker, floats: count + skipCount + ck_state_space_scratch(states))
            pack(dStateOut, width: 2 * states, task, into: g)
            let dSkip = g + count
            dSkip.update(repeating: 0, count: skipCount)
            let dTable = tableParts + task.bundle * packedTableCount + task.channels.lowerBound * states * columns
            dTable.update(
                repeating: 0, count: packedCount(channels: task.channels.count, width: states * columns) / bundleSize)
            for index in (0..<stretchCount).reversed() {
                let at = offset(index, task)
                var stretch = self.stretch(index, u + at, table: table, skip: skip, task)
                ck_state_space_backward(
                    &stretch, checkpoint(checkpoints, index, task), dy + at, channels, g, du + at, channels, dTable,
                    dSkip, dSkip + skipCount)
            }
            unpack(g, width: 2 * states, task, into: dStateIn)
            unpack(dSkip, width: 1, task, into: skipParts)
        }
    }

    /// What one task works on: some channels of the sequences of a bundle.
    private struct Share {
        var bundle: Int
        var sequences: Range<Int>
        var channels: Range<Int>
    }

    private func run(_ threads: ThreadPool, _ body: (Share, _ worker: Int) -> Void) {
        threads.run(bundleCount * groupCount) { index, worker in
            let bundle = index / groupCount
            let task = Share(
                bundle: bundle, sequences: bundle * bundleSize..<(bundle + 1) * bundleSize,
                channels: ChannelBlocks.group(index % groupCount, channels: channels, sequences: bundleSize))
            body(task, worker)
        }
    }

    /// A task's part of `[B, C, width]` to blocks; nil is zero.
    private func pack(_ plain: Source?, width: Int, _ task: Share, into packed: Destination) {
        packed.update(repeating: 0, count: packedCount(channels: task.channels.count, width: width))
        guard let plain else { return }
        for (slot, row) in task.sequences.enumerated() {
            ChannelBlocks.copy(
                plain + (row * channels + task.channels.lowerBound) * width, channels: task.channels.count,
                width: width, lanes: lanes, stride: 16, into: packed + slot * lanes)
        }
    }

    private func unpack(_ packed: Source, width: Int, _ task: Share, into plain: Destination) {
        for (slot, row) in task.sequences.enumerated() {
            ChannelBlocks.unpack(
                packed + slot * lanes, channels: task.channels.count, width: width, lanes: lanes, stride: 16,
                into: plain + (row * channels + task.channels.lowerBound) * width)
        }
    }

    private func checkpoint(_ base: Destination, _ index: Int, _ task: Share) -> Destination {
        base + (task.bundle * stretchCount + index) * packedStateCount + task.channels.lowerBound * bundleSize * 2
            * states
    }

    /// Where a stretch of the first sequence begins in `[B·T, C]`.
    private func offset(_ index: Int, _ task: Share) -> Int {
        (task.sequences.lowerBound * time + index * Self.stretchLength) * channels + task.channels.lowerBound
    }

    private func stretch(
        _ index: Int, _ u: Source, table: Source, skip: Source, _ task: Share
    ) -> ck_state_space_stretch {
        let first = task.channels.lowerBound
        return ck_state_space_stretch(
            steps: min(Self.stretchLength, time - index * Self.stretchLength), channels: task.channels.count,
            states: states, columns: Int32(columns), sequences: Int32(bundleSize),
            sequence: time * channels, table: table + first * states * columns, skip: skip + first, u: u,
            u_row: channels)
    }
}
