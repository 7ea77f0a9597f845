import CKernels

// Legend: B samples, T tokens, D channels, N averages of each.

/// Multi-dimensional damped moving average of every channel (arXiv 2209.10655, equation 4):
/// `h_t = decay ⊙ h_{t−1} + input·x_t`, `y_t = output·h_t + skip·x_t`. As a recurrence, sixteen channels side by side: 4ND
/// FLOPs a token and no transform. Samples and blocks of channels run in parallel, tokens in order.
public struct MovingAverage {
    public let batch, time, channels, states: Int

    /// Most averages of a channel.
    public static let maximumStates = Int(CK_AVERAGE_STATES)

    public init(batch: Int, time: Int, channels: Int, states: Int) {
        require(
            batch > 0 && time > 0 && channels > 0 && 1...Self.maximumStates ~= states,
            "MovingAverage: B \(batch), T \(time), D \(channels), N \(states); expected positive, N ≤ \(Self.maximumStates)"
        )
        (self.batch, self.time, self.channels, self.states) = (batch, time, channels, states)
    }

    /// `decay`, `input`, `output` `[N, D]`, then `skip [D]`, one after the other.
    public var coefficientCount: Int { (3 * states + 1) * channels }
    /// States kept for the backward, `[B, blocks, N, D]`.
    public var keptCount: Int { batch * blockCount * states * channels }

    private var blockCount: Int { (time + Int(CK_AVERAGE_BLOCK) - 1) / Int(CK_AVERAGE_BLOCK) }
    private var groups: Int { (channels + 15) / 16 }

    private func shape(_ coefficients: UnsafePointer<Float>) -> ck_average_shape {
        let size = states * channels
        return ck_average_shape(
            time: time, channels: channels, states: states, decay: coefficients, input: coefficients + size,
            output: coefficients + 2 * size, skip: coefficients + 3 * size)
    }

    /// - Parameters:
    ///   - x, y: `[B, T, D]`. - state, finalState: `[B, D, N]`; nil for zero.
    ///   - kept: `keptCount` floats; nil when there will be no backward.
    public func forward(
        _ x: UnsafePointer<Float>, coefficients: UnsafePointer<Float>, state: UnsafePointer<Float>?,
        into y: UnsafeMutablePointer<Float>, finalState: UnsafeMutablePointer<Float>,
        kept: UnsafeMutablePointer<Float>?, threads: ThreadPool
    ) {
        let shape = shape(coefficients)
        threads.run(batch * groups) { index, _ in
            let b = index / groups, row = b * time * channels, at = b * channels * states
            withUnsafePointer(to: shape) {
                ck_average(
                    y + row, finalState + at, kept.map { $0 + at * blockCount }, x + row, state.map { $0 + at }, $0,
                    index % groups * 16)
            }
        }
    }

    /// - Parameters:
    ///   - dx: overwritten. - dState: `[B, D, N]`, overwritten.
    ///   - dCoefficients: `[B, coefficientCount]`, one gradient for each sample.
    public func backward(
        _ dy: UnsafePointer<Float>, x: UnsafePointer<Float>, coefficients: UnsafePointer<Float>,
        kept: UnsafePointer<Float>, dFinalState: UnsafePointer<Float>?, into dx: UnsafeMutablePointer<Float>,
        dState: UnsafeMutablePointer<Float>, dCoefficients: UnsafeMutablePointer<Float>, threads: ThreadPool
    ) {
        let shape = shape(coefficients), floats = (Int(CK_AVERAGE_BLOCK) + 1) * states * 16
        threads.run(batch * groups) { index, worker in
            let b = index / groups, row = b * time * channels, at = b * channels * states
            withUnsafePointer(to: shape) {
                ck_average_backward(
                    dx + row, dState + at, dCoefficients + b * coefficientCount, dy + row,
                    dFinalState.map { $0 + at }, x + row, kept + at * blockCount, $0, index % groups * 16,
                    threads.scratch(worker: worker, floats: floats))
            }
        }
    }
}
