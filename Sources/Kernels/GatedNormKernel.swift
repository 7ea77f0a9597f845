import CKernels

/// A norm over groups of channels, and the gate that goes with it.
public struct GatedNormShape: Sendable, Hashable {
    public enum Gate: Int32, Sendable { case none = 0, silu, sigmoid }

    /// Channels of a row are `groupCount` groups of `groupWidth`.
    public let groupCount, groupWidth: Int
    /// LayerNorm without bias (the mean is removed) instead of RMSNorm.
    public let isCentred: Bool
    public let gate: Gate
    /// `norm(x ⊙ a(z)) ⊙ w` instead of `norm(x) ⊙ w ⊙ a(z)`.
    public let isGateFirst: Bool
    /// One weight `[groupWidth]` for all groups instead of `[groupCount·groupWidth]`.
    public let sharesWeight: Bool
    public let epsilon: Float

    public init(
        groupCount: Int, groupWidth: Int, isCentred: Bool = false, gate: Gate = .none, isGateFirst: Bool = false,
        sharesWeight: Bool = false, epsilon: Float
    ) {
        require(
            groupCount > 0 && groupWidth > 0, "GatedNorm: \(groupCount) groups of \(groupWidth); expected positive")
        require(!(isCentred && isGateFirst), "GatedNorm: a gate in front of LayerNorm; expected RMSNorm there")
        (self.groupCount, self.groupWidth, self.isCentred, self.gate) = (groupCount, groupWidth, isCentred, gate)
        (self.isGateFirst, self.sharesWeight, self.epsilon) = (isGateFirst, sharesWeight, epsilon)
    }

    public var width: Int { groupCount * groupWidth }
    public var weightCount: Int { sharesWeight ? groupWidth : width }

    fileprivate var kernel: ck_gated_norm_shape {
        ck_gated_norm_shape(
            groups: groupCount, width: groupWidth, centred: isCentred ? 1 : 0, gate: gate.rawValue,
            gate_first: isGateFirst ? 1 : 0, shared: sharesWeight ? 1 : 0, epsilon: epsilon)
    }
}

/// `y = norm_group(x) ⊙ w ⊙ a(z)`, or with the gate first, over rows of `groupCount·groupWidth` channels.
public enum GatedNormKernel {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// Rows whose weight gradients are summed together; fixed, so that sums do not depend on threads.
    private static let panelRows = 64

    /// Panels of weight gradients that the backward of `rows` rows stores.
    public static func panelCount(rows: Int) -> Int { (rows + panelRows - 1) / panelRows }

    /// - Parameters:
    ///   - x, y: `[rows, width]`. - gate: `z`, alike, or nil when the shape has no gate.
    ///   - mean, rstd: `[rows, groupCount]`, kept for the backward; `mean` is left alone unless centred.
    public static func forward(
        _ x: Source, gate: Source?, weight: Source, into y: Destination, mean: Destination, rstd: Destination,
        rows: Int, shape: GatedNormShape, threads: ThreadPool
    ) {
        require((gate != nil) == (shape.gate != .none), "GatedNorm: a gate and a kind of gate; expected both or none")
        threads.forEachPanel(of: rows, size: panelRows) { row, count in
            let (start, group) = (row * shape.width, row * shape.groupCount)
            withUnsafePointer(to: shape.kernel) {
                ck_gated_norm(
                    y + start, mean + group, rstd + group, x + start, gate.map { $0 + start }, weight, count, $0)
            }
        }
    }

    /// - Parameters:
    ///   - dx, dGate: overwritten; `dGate` is nil when there is no gate.
    ///   - dWeightPanels: `[panelCount(rows), weightCount]`, whose sum over panels is the gradient of the weight.
    public static func backward(
        _ dy: Source, x: Source, gate: Source?, weight: Source, mean: Source, rstd: Source, into dx: Destination,
        dGate: Destination?, dWeightPanels: Destination, rows: Int, shape: GatedNormShape, threads: ThreadPool
    ) {
        threads.run(panelCount(rows: rows)) { index, _ in
            let row = index * panelRows
            let (start, group) = (row * shape.width, row * shape.groupCount)
            let dWeight = dWeightPanels + index * shape.weightCount
            dWeight.update(repeating: 0, count: shape.weightCount)
            withUnsafePointer(to: shape.kernel) {
                ck_gated_norm_backward(
                    dx + start, dGate.map { $0 + start }, dWeight, dy + start, x + start, gate.map { $0 + start },
                    weight, mean + group, rstd + group, min(panelRows, rows - row), $0)
            }
        }
    }
}
