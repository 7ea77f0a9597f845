import Glibc
import Kernels
import Testing

@Suite struct GatedNormKernelTests {
    static let shapes = [
        GatedNormShape(groupCount: 3, groupWidth: 21, gate: .silu, sharesWeight: true, epsilon: 1e-5),
        GatedNormShape(groupCount: 2, groupWidth: 40, gate: .silu, isGateFirst: true, epsilon: 1e-5),
        GatedNormShape(groupCount: 4, groupWidth: 7, isCentred: true, gate: .sigmoid, epsilon: 1e-6),
        GatedNormShape(groupCount: 5, groupWidth: 16, sharesWeight: true, epsilon: 1e-5),
        GatedNormShape(groupCount: 1, groupWidth: 100, isCentred: true, epsilon: 1e-5),
    ]

    static func reference(_ x: [Double], _ z: [Double], _ w: [Float], _ shape: GatedNormShape) -> [Double] {
        func opened(_ i: Int) -> Double {
            let sigma = 1 / (1 + exp(-z[i]))
            return shape.gate == .none ? 1 : shape.gate == .silu ? z[i] * sigma : sigma
        }
        var y = [Double](repeating: 0, count: x.count)
        for start in stride(from: 0, to: x.count, by: shape.groupWidth) {
            let own = start..<start + shape.groupWidth
            let values = own.map { shape.isGateFirst ? x[$0] * opened($0) : x[$0] }
            let mean = shape.isCentred ? values.reduce(0, +) / Double(values.count) : 0
            let square = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count)
            for (i, value) in zip(own, values) {
                let weight = Double(w[shape.sharesWeight ? i - start : i % shape.width])
                y[i] = weight * (value - mean) / sqrt(square + Double(shape.epsilon))
                if !shape.isGateFirst { y[i] *= opened(i) }
            }
        }
        return y
    }

    @Test(arguments: shapes) func matchesTheDefinition(_ shape: GatedNormShape) {
        let rows = 131, count = rows * shape.width
        let x = randomFloats(count, seed: 1, scale: 2), z = randomFloats(count, seed: 2, scale: 3)
        let w = randomFloats(shape.weightCount, seed: 3), g = randomFloats(count, seed: 4)
        let gate: [Float]? = shape.gate == .none ? nil : z
        var results: [[Float]] = []
        for pool in [onePool, twoPool] {
            var y = zeros(count), mean = zeros(rows * shape.groupCount), rstd = mean
            var dx = zeros(count), dz = zeros(count)
            var panels = zeros(GatedNormKernel.panelCount(rows: rows) * shape.weightCount)
            gate.withPointer { gate in
                GatedNormKernel.forward(
                    x, gate: gate, weight: w, into: &y, mean: &mean, rstd: &rstd, rows: rows, shape: shape,
                    threads: pool)
                dz.withUnsafeMutableBufferPointer { dz in
                    GatedNormKernel.backward(
                        g, x: x, gate: gate, weight: w, mean: mean, rstd: rstd, into: &dx,
                        dGate: gate == nil ? nil : dz.baseAddress!, dWeightPanels: &panels, rows: rows, shape: shape,
                        threads: pool)
                }
            }
            results.append(y + dx + dz + panels)
            let expected = Self.reference(x.map(Double.init), z.map(Double.init), w, shape)
            #expect(relativeError(y, expected) < 1e-6)

            // Gradients along random directions, by central differences in Double.
            func loss(_ x: [Double], _ z: [Double], _ w: [Float]) -> Double {
                zip(Self.reference(x, z, w, shape), g).reduce(0) { $0 + $1.0 * Double($1.1) }
            }
            let step = 1e-4
            let direction = randomFloats(count, seed: 5).map(Double.init)
            func moved(_ v: [Float], _ by: Double) -> [Double] { zip(v, direction).map { Double($0) + by * $1 } }
            let zd = z.map(Double.init), xd = x.map(Double.init)
            let slopeX = (loss(moved(x, step), zd, w) - loss(moved(x, -step), zd, w)) / (2 * step)
            let slopeZ = (loss(xd, moved(z, step), w) - loss(xd, moved(z, -step), w)) / (2 * step)
            func dot(_ a: [Float]) -> Double { zip(a, direction).reduce(0) { $0 + Double($1.0) * $1.1 } }
            #expect(abs(dot(dx) - slopeX) < 1e-4 * max(1, abs(slopeX)))
            #expect(abs(dot(dz) - slopeZ) < 1e-4 * max(1, abs(slopeZ)))
            // The output is linear in the weight.
            let dw = (0..<shape.weightCount).map { c in
                stride(from: c, to: panels.count, by: shape.weightCount).reduce(0) { $0 + Double(panels[$1]) }
            }
            let total = zip(dw, w).reduce(0) { $0 + $1.0 * Double($1.1) }
            #expect(abs(total - loss(xd, zd, w)) < 1e-4 * max(1, abs(total)))
        }
        expectSameBits(results[0], results[1])
    }
}

extension [Float]? {
    /// The address of the elements, or nil.
    fileprivate func withPointer(_ body: (UnsafePointer<Float>?) -> Void) {
        if let self { self.withUnsafeBufferPointer { body($0.baseAddress) } } else { body(nil) }
    }
}
