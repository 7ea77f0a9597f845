import CKernels

/// A time-invariant state space per channel, its transition diagonal or diagonal plus rank one (S4D, S4):
/// `s = Re Σ_n w_n x_n`, `x ← a x + b u + f s`, `y = Re Σ_n c_n x_n + D u` with `N` complex states; or semiseparable, on
/// `2N` real states j: `x_j ← a_j x_j + b_j u + h_j g_{j−1} + m_j w_{j+1}` where `g_j = p_j x_j + l_j g_{j−1}` and
/// `w_j = g_j + v_j w_{j+1}` (LSSL).
///
/// Legend: B batch, T time, C channels, N states, K = 6, 10 or 16 numbers per state: a, b, c (f, w), each real and
/// imaginary; or a, b, c, p, l, v, h, m, each of two real states.
/// One task is one sequence and 256 of its channels. Kept for the backward are the states before every 32nd step; the
/// others are computed again.
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
    }

    private static let stretchLength = CK_STATE_SPACE_STEPS
    private var stretchCount: Int { (time + Self.stretchLength - 1) / Self.stretchLength }
    private var groupCount: Int { ChannelBlocks.groupCount(channels: channels) }
    private var packedStateCount: Int { ChannelBlocks.floats(channels: channels, width: 2 * states) }

    /// Floats of a table in blocks.
    public var packedTableCount: Int { ChannelBlocks.floats(channels: channels, width: states * columns) }
    /// Floats that a forward pass keeps for the backward.
    public var checkpointCount: Int { batch * stretchCount * packedStateCount }

    /// - Parameter table: `[C, N, K]`.
    public func packTable(_ table: Source, into packed: Destination) {
        ChannelBlocks.pack(table, channels: channels, width: states * columns, into: packed)
    }

    /// Adds up the gradients of the sequences, in their order.
    /// - Parameters:
    ///   - parts: `[B, packedTableCount]`; the first row is overwritten by the sum.
    ///   - table: `[C, N, K]`, written.
    public func sumTableParts(_ parts: Destination, into table: Destination) {
        for row in 1..<max(batch, 1) { ck_add(parts, parts, parts + row * packedTableCount, packedTableCount) }
        ChannelBlocks.unpack(parts, channels: channels, width: states * columns, into: table)
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
        threads.run(batch * groupCount) { task, worker in
            let (row, group) = (task / groupCount, ChannelBlocks.group(task % groupCount, channels: channels))
            let count = ChannelBlocks.floats(channels: group.count, width: 2 * states)
            let x = threads.scratch(worker: worker, floats: count + 32 * states)
            let state = (row * channels + group.lowerBound) * 2 * states
            ChannelBlocks.pack(stateIn.map { $0 + state }, channels: group.count, width: 2 * states, into: x)
            for index in 0..<stretchCount {
                if let checkpoints { checkpoint(checkpoints, row, index, group).update(from: x, count: count) }
                let at = (row * time + index * Self.stretchLength) * channels + group.lowerBound
                var stretch = self.stretch(index, u + at, table: table, skip: skip, group)
                ck_state_space_forward(&stretch, x, y + at, channels, x + count)
            }
            ChannelBlocks.unpack(x, channels: group.count, width: 2 * states, into: stateOut + state)
        }
    }

    /// - Parameters:
    ///   - checkpoints: of the forward pass.
    ///   - dy: `[B·T, C]`.
    ///   - dStateOut: `[B, C, N, 2]`; nil is zero.
    ///   - du: `[B·T, C]`, written.
    ///   - tableParts: `[B, packedTableCount]`, written: a sequence's gradient of the table. - skipParts: `[B, C]` alike.
    ///   - dStateIn: `[B, C, N, 2]`, written.
    public func backward(
        _ u: Source, table: Source, skip: Source, checkpoints: Destination, dy: Source, dStateOut: Source?,
        into du: Destination, tableParts: Destination, skipParts: Destination, dStateIn: Destination,
        threads: ThreadPool
    ) {
        threads.run(batch * groupCount) { task, worker in
            let (row, group) = (task / groupCount, ChannelBlocks.group(task % groupCount, channels: channels))
            let count = ChannelBlocks.floats(channels: group.count, width: 2 * states)
            let g = threads.scratch(worker: worker, floats: count + ck_state_space_scratch(states))
            let state = (row * channels + group.lowerBound) * 2 * states
            ChannelBlocks.pack(dStateOut.map { $0 + state }, channels: group.count, width: 2 * states, into: g)
            let dTable = tableParts + row * packedTableCount + group.lowerBound * states * columns
            dTable.update(
                repeating: 0, count: ChannelBlocks.floats(channels: group.count, width: states * columns))
            let dSkip = skipParts + row * channels + group.lowerBound
            dSkip.update(repeating: 0, count: group.count)
            for index in (0..<stretchCount).reversed() {
                let at = (row * time + index * Self.stretchLength) * channels + group.lowerBound
                var stretch = self.stretch(index, u + at, table: table, skip: skip, group)
                ck_state_space_backward(
                    &stretch, checkpoint(checkpoints, row, index, group), dy + at, channels, g, du + at, channels,
                    dTable, dSkip, g + count)
            }
            ChannelBlocks.unpack(g, channels: group.count, width: 2 * states, into: dStateIn + state)
        }
    }

    private func checkpoint(_ base: Destination, _ row: Int, _ index: Int, _ group: Range<Int>) -> Destination {
        base + (row * stretchCount + index) * packedStateCount + group.lowerBound * 2 * states
    }

    private func stretch(
        _ index: Int, _ u: Source, table: Source, skip: Source, _ group: Range<Int>
    ) -> ck_state_space_stretch {
        ck_state_space_stretch(
            steps: min(Self.stretchLength, time - index * Self.stretchLength), channels: group.count, states: states,
            columns: Int32(columns), table: table + group.lowerBound * states * columns,
            skip: skip + group.lowerBound, u: u, u_row: channels)
    }
}
