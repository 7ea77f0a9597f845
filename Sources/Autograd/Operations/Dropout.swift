import Kernels
import Tensors

/// Key of one dropout site's masks. With the sample's global index and the element's position in its
/// sequence it fixes every mask bit, whatever the micro-batch, chunk, rank or number of recomputations.
public struct DropoutKey: Sendable {
    let seed: UInt64
    let step: UInt32
    let stream: UInt32

    public init(seed: UInt64, step: Int, stream: Int) {
        self.seed = seed
        self.step = UInt32(truncatingIfNeeded: step)
        self.stream = UInt32(truncatingIfNeeded: stream)
    }
}

extension Tape {
    /// Zeroes elements of `x [B·T, D]` with probability `rate` and scales the others by 1 ÷ (1 − rate).
    ///
    /// - Parameters:
    ///   - positionOffset: position of the first row in its sequence.
    ///   - samples: global index of each sequence, consecutive, `[B]`.
    public func dropout(
        _ x: Variable, rate: Float, time: Int, positionOffset: Int, samples: [UInt32], key: DropoutKey
    ) -> Variable {
        let width = x.value.width
        require(x.value.rows == time * samples.count, "dropout: x is \(x.shape), \(samples.count) samples of \(time)")
        func apply(_ source: Tensor, _ target: Tensor) {
            Dropout.apply(
                source.pointer, into: target.pointer, samples: samples.count, count: time * width,
                firstSample: Int(samples[0]), firstElement: positionOffset * width, probability: rate,
                seed: key.seed, stream: key.stream, step: key.step, threads: threads)
        }
        let y = context.tensor(x.shape)
        apply(x.value, y)
        let result = output(y, from: x)
        record(result) { dy in
            let dx = self.context.tensor(x.shape)
            apply(dy, dx)
            x.accumulate(dx, self.context)
        }
        return result
    }
}
