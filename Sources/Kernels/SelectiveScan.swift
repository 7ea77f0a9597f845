import CKernels

/// The selective scan of Mamba over whole sequences (arXiv 2312.00752, equation 2, with `B̄ = ΔB`), gate and skip included:
/// `Δ = softplus(dt)`, `h = e^{ΔA} h + Δ x B`, `y = (Σ_n C_n h_n + D x) · silu(z)`.
///
/// Legend: B batch, T time, C channels, N states. One task is one sequence and 256 of its channels, from its first step
/// to its last. Kept for the backward are the states before every 16th step; the others are computed again.
public struct SelectiveScan {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// What a scan reads.
    public struct Operands {
        /// `[B·T, C]`
        public var x, dt, z: Source
        /// `[B·T, N]`, rows `projectedStride` apart.
        public var inputs, outputs: Source
        public var projectedStride: Int
        /// `A · log2 e` in blocks, see ``packDecay(_:into:)``.
        public var decay: Source
        /// `D [C]`
        public var skip: Source

        public init(
            x: Source, dt: Source, z: Source, inputs: Source, outputs: Source, projectedStride: Int, decay: Source,
            skip: Source
        ) {
            (self.x, self.dt, self.z) = (x, dt, z)
            (self.inputs, self.outputs, self.projectedStride) = (inputs, outputs, projectedStride)
            (self.decay, self.skip) = (decay, skip)
        }
    }

    /// What a backward pass writes; the sums over rows and channels are left in parts, to be added in their order.
    public struct Gradients {
        /// `[B·T, C]`
        public var dx, ddt, dz: Destination
        /// `[groups, B·T, 2N]`: `dB` and `dC` of each group of channels.
        public var projectedParts: Destination
        /// `[B, packedCount]`: `dA`, one row per sequence, in blocks.
        public var decayParts: Destination
        /// `[B, C]`
        public var skipParts: Destination

        public init(
            dx: Destination, ddt: Destination, dz: Destination, projectedParts: Destination, decayParts: Destination,
            skipParts: Destination
        ) {
            (self.dx, self.ddt, self.dz) = (dx, ddt, dz)
            (self.projectedParts, self.decayParts, self.skipParts) = (projectedParts, decayParts, skipParts)
        }
    }

    public let batch: Int
    public let time: Int
    public let channels: Int
    public let states: Int

    public init(batch: Int, time: Int, channels: Int, states: Int) {
        require(
            batch >= 1 && time >= 1 && channels >= 1 && states >= 1,
            "SelectiveScan: batch \(batch), time \(time), channels \(channels), states \(states); expected at least 1")
        (self.batch, self.time, self.channels, self.states) = (batch, time, channels, states)
    }

    private static let stretchLength = CK_SELECTIVE_SCAN_STEPS

    /// Channels of one task are one group.
    public var groupCount: Int { ChannelBlocks.groupCount(channels: channels) }
    /// Floats of one `[C, N]` table in blocks, `[⌈C/16⌉, N, 16]`.
    public var packedCount: Int { ChannelBlocks.floats(channels: channels, width: states) }
    /// Floats that a forward pass keeps for the backward, `[B, ⌈T/16⌉, packedCount]`.
    public var checkpointCount: Int { batch * stretchCount * packedCount }
    private var stretchCount: Int { (time + Self.stretchLength - 1) / Self.stretchLength }

    /// `A log2 e = −e^{logA} log2 e` in blocks; padding lanes decay by themselves.
    /// - Parameter logA: `[C, N]`.
    public func packDecay(_ logA: Source, into packed: Destination) {
        ChannelBlocks.pack(logA, channels: channels, width: states, into: packed)
        ck_exp(packed, packed, packedCount)
        ck_scale(packed, packed, -1.44269504, packedCount)
    }

    /// `dLogA += A · Σ_rows dA`.
    /// - Parameters:
    ///   - parts: `[B, packedCount]`; its first row is overwritten by the sum.
    ///   - decay: as packed.
    ///   - dLogA: `[C, N]`.
    public func addDecayGradient(_ parts: Destination, decay: Source, to dLogA: Destination) {
        for row in 1..<max(batch, 1) { ck_add(parts, parts, parts + row * packedCount, packedCount) }
        for channel in 0..<channels {
            for n in 0..<states {
                let at = (channel / 16 * states + n) * 16 + channel % 16
                dLogA[channel * states + n] += parts[at] * (decay[at] * 0.693147181)
            }
        }
    }

    /// Adds up `dB` and `dC` over the groups of channels, in their order.
    /// - Parameter projected: `[B·T, 2N]`, rows `stride` apart, written.
    public func sumProjectedParts(
        _ parts: Source, into projected: Destination, stride: Int, threads: ThreadPool
    ) {
        let (rows, width) = (batch * time, 2 * states)
        threads.forEachRowPanel(of: rows, width: width) { row, count in
            for r in row..<row + count {
                let target = projected + r * stride
                target.update(from: parts + r * width, count: width)
                for group in 1..<max(groupCount, 1) {
                    ck_add(target, target, parts + (group * rows + r) * width, width)
                }
            }
        }
    }

    /// - Parameters:
    ///   - stateIn: `[B, C, N]`; nil is zero.
    ///   - y: `[B·T, C]`, written.
    ///   - stateOut: `[B, C, N]`, written.
    ///   - checkpoints: `checkpointCount` floats, written for the backward; nil when there will be none.
    public func forward(
        _ operands: Operands, stateIn: Source?, into y: Destination, stateOut: Destination, checkpoints: Destination?,
        threads: ThreadPool
    ) {
        threads.run(batch * groupCount) { task, worker in
            let (row, columns) = (task / groupCount, ChannelBlocks.group(task % groupCount, channels: channels))
            let count = packedFloats(columns)
            let h = threads.scratch(worker: worker, floats: count)
            let state = (row * channels + columns.lowerBound) * states
            ChannelBlocks.pack(stateIn.map { $0 + state }, channels: columns.count, width: states, into: h)
            for (index, first) in stride(from: 0, to: time, by: Self.stretchLength).enumerated() {
                if let checkpoints {
                    checkpoint(checkpoints, row, index, columns).update(from: h, count: count)
                }
                var stretch = self.stretch(operands, row: row, first: first, columns)
                ck_selective_scan_forward(
                    &stretch, h, y + (row * time + first) * channels + columns.lowerBound, channels)
            }
            ChannelBlocks.unpack(h, channels: columns.count, width: states, into: stateOut + state)
        }
    }

    /// - Parameters:
    ///   - checkpoints: of the forward pass.
    ///   - dy: `[B·T, C]`.
    ///   - dStateOut: `[B, C, N]`; nil is zero.
    ///   - dStateIn: `[B, C, N]`, written.
    public func backward(
        _ operands: Operands, checkpoints: Destination, dy: Source, dStateOut: Source?, into gradients: Gradients,
        dStateIn: Destination, threads: ThreadPool
    ) {
        let rows = batch * time
        threads.run(batch * groupCount) { task, worker in
            let (row, groupIndex) = (task / groupCount, task % groupCount)
            let columns = ChannelBlocks.group(groupIndex, channels: channels)
            let count = packedFloats(columns)
            let g = threads.scratch(worker: worker, floats: count + ck_selective_scan_scratch(states))
            let state = (row * channels + columns.lowerBound) * states
            ChannelBlocks.pack(dStateOut.map { $0 + state }, channels: columns.count, width: states, into: g)
            let decay = gradients.decayParts + row * packedCount + columns.lowerBound * states
            decay.update(repeating: 0, count: count)
            let skip = gradients.skipParts + row * channels + columns.lowerBound
            skip.update(repeating: 0, count: columns.count)
            for index in (0..<stretchCount).reversed() {
                let first = index * Self.stretchLength
                let at = (row * time + first) * channels + columns.lowerBound
                let projected = gradients.projectedParts + (groupIndex * rows + row * time + first) * 2 * states
                var stretch = self.stretch(operands, row: row, first: first, columns)
                var out = ck_selective_scan_gradients(
                    dx: gradients.dx + at, ddt: gradients.ddt + at, dz: gradients.dz + at, dx_row: channels,
                    ddt_row: channels, dz_row: channels, db: projected, dc: projected + states, dbc_row: 2 * states,
                    d_decay: decay, d_skip: skip)
                ck_selective_scan_backward(
                    &stretch, checkpoint(checkpoints, row, index, columns), dy + at, channels, g, &out, g + count)
            }
            ChannelBlocks.unpack(g, channels: columns.count, width: states, into: dStateIn + state)
        }
    }

    private func packedFloats(_ columns: Range<Int>) -> Int {
        ChannelBlocks.floats(channels: columns.count, width: states)
    }

    private func checkpoint(_ base: Destination, _ row: Int, _ index: Int, _ columns: Range<Int>) -> Destination {
        base + (row * stretchCount + index) * packedCount + columns.lowerBound * states
    }

    private func stretch(
        _ operands: Operands, row: Int, first: Int, _ columns: Range<Int>
    ) -> ck_selective_scan_stretch {
        let at = row * time + first
        let channel = at * channels + columns.lowerBound
        return ck_selective_scan_stretch(
            steps: min(Self.stretchLength, time - first), channels: columns.count, states: states,
            x: operands.x + channel,
            dt: operands.dt + channel, z: operands.z + channel, x_row: channels, dt_row: channels, z_row: channels,
            b: operands.inputs + at * operands.projectedStride, c: operands.outputs + at * operands.projectedStride,
            bc_row: operands.projectedStride, decay: operands.decay + columns.lowerBound * states,
            skip: operands.skip + columns.lowerBound)
    }
}
