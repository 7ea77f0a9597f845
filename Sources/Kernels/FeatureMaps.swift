import CKernels

/// Maps of a head's query or key to features whose products stand in for an exponential.
public enum FeatureMaps {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    public enum Map: Sendable {
        /// `elu(x) + 1`; keeps the width.
        case eluPlusOne
        /// `softmax([2x, −2x])` over a row; twice the width.
        case signedSoftmax

        /// Width of the features of rows of `width`.
        public func featureWidth(_ width: Int) -> Int {
            switch self {
            case .eluPlusOne: width
            case .signedSoftmax: 2 * width
            }
        }
    }

    /// `y [rows, featureWidth(width)]` of `x [rows, width]`.
    public static func forward(
        _ map: Map, _ x: Source, into y: Destination, rows: Int, width: Int, threads: ThreadPool
    ) {
        let features = map.featureWidth(width)
        threads.forEachRowPanel(of: rows, width: features) { row, count in
            let (x, y) = (x + row * width, y + row * features)
            switch map {
            case .eluPlusOne: ck_elu_plus_one(y, x, count * width)
            case .signedSoftmax: ck_signed_softmax(y, x, count, width)
            }
        }
    }

    public static func backward(
        _ map: Map, _ dy: Source, y: Source, into dx: Destination, rows: Int, width: Int, threads: ThreadPool
    ) {
        let features = map.featureWidth(width)
        threads.forEachRowPanel(of: rows, width: features) { row, count in
            let (dy, y, dx) = (dy + row * features, y + row * features, dx + row * width)
            switch map {
            case .eluPlusOne: ck_elu_plus_one_backward(dx, dy, y, count * width)
            case .signedSoftmax: ck_signed_softmax_backward(dx, dy, y, count, width)
            }
        }
    }
}

/// `z_t = log(e^{z_{t−1}} + e^{x_t})`, `weight_t = e^{x_t − z_t}`, `logDecay_t = z_{t−1} − z_t` along `[B, T, C]`.
public enum SoftmaxGate {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// - Parameters:
    ///   - past: `z` before the first token, `[B, C]`; nil: −∞, whose decay counts as 1.
    ///   - z: after the last token, `[B, C]`.
    public static func forward(
        _ x: Source, past: Source?, weight: Destination, logDecay: Destination, z: Destination, batch: Int, time: Int,
        width: Int, threads: ThreadPool
    ) {
        threads.run(batch) { b, _ in
            let start = b * time * width
            ck_softmax_gate(
                weight + start, logDecay + start, z + b * width, x + start, past.map { $0 + b * width }, time, width)
        }
    }

    /// - Parameters:
    ///   - dz: gradient of the final `z`; nil is zero. - dPast: of the initial one, overwritten; nil when there was none.
    public static func backward(
        dWeight: Source, dLogDecay: Source, dz: Source?, weight: Source, logDecay: Source, into dx: Destination,
        dPast: Destination?, batch: Int, time: Int, width: Int, threads: ThreadPool
    ) {
        threads.run(batch) { b, _ in
            let start = b * time * width
            ck_softmax_gate_backward(
                dx + start, dPast.map { $0 + b * width }, dWeight + start, dLogDecay + start,
                dz.map { $0 + b * width }, weight + start, logDecay + start, dPast == nil ? 0 : 1, time, width)
        }
    }
}
