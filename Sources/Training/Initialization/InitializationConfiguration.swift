import Kernels
import Models

/// `train.initialize_from:` — start from a checkpoint's weights instead of random ones.
///
/// | key | meaning | default |
/// | --- | --- | --- |
/// | `checkpoint` | one of ours (`step-...`, or a run directory for its latest), or a Hugging Face directory, `.index.json` or `.safetensors` file of Llama layout | required |
/// | `method` | which layers of a full-depth model become a shared block: `stepwise`, `average`, `lower`, `upper`, `random`; `same` takes every tensor under its own name | `stepwise` |
/// | `low_rank` | corrections of a relaxed recursion: `svd` of what sharing leaves out, or `random` (no correction at first) | `svd` |
///
/// A model without shared blocks takes every tensor under its own name. Relative paths start at the configuration file's
/// directory, or else at the current one. A run that resumes keeps its own weights.
public struct InitializationConfiguration: Sendable {
    public enum LowRank: String, CaseIterable, Sendable { case svd, random }

    public var checkpoint: String
    public var method: DepthConversion.Method
    public var lowRank: LowRank

    public init(checkpoint: String, method: DepthConversion.Method = .stepwise, lowRank: LowRank = .svd) {
        self.checkpoint = checkpoint
        self.method = method
        self.lowRank = lowRank
    }

    init(_ reader: ConfigurationReader, directory: String) throws(ConfigurationError) {
        checkpoint = FileSystem.beside(directory, try reader.string("checkpoint"))
        method = try reader.choice("method", default: .stepwise)
        lowRank = try reader.choice("low_rank", default: .svd)
    }
}

/// Which layers of a full-depth model the layers of a shared block are made of (arXiv 2410.20672, section 3.1; names of
/// arXiv 2507.10524).
public struct DepthConversion: Sendable {
    public enum Method: String, CaseIterable, Sendable {
        /// Evenly spaced over the depth, first and last included.
        case stepwise
        /// The mean of the layers that will share.
        case average
        /// The first ones. ...
        case lower
        /// ... The last ones.
        case upper
        /// Drawn without repetition, in order.
        case random
        /// No conversion: the checkpoint has the same shared blocks.
        case same
    }

    /// Layers of the full model that the recursion takes the place of.
    public let inner: ClosedRange<Int>
    /// Layers of the shared block (`B`).
    public let layerCount: Int
    /// Recursions (`R`).
    public let count: Int
    public let sharing: RecursionSharing

    /// - Precondition: `inner` holds at least `layerCount` layers.
    public init(inner: ClosedRange<Int>, layerCount: Int, count: Int, sharing: RecursionSharing) {
        require(
            inner.count >= layerCount && layerCount > 0 && count > 0,
            "DepthConversion: got \(inner.count) layers for a block of \(layerCount); expected at least as many")
        (self.inner, self.layerCount, self.count, self.sharing) = (inner, layerCount, count, sharing)
    }

    /// The layer that application `application` of the unrolled block stands for: itself, or where depths differ one
    /// of an even grid over `inner`.
    public func counterpart(_ application: Int) -> Int {
        let depth = layerCount * count
        return inner.count == depth ? inner.lowerBound + application : grid(application, of: depth)
    }

    /// Layers of the full model whose mean becomes layer `layer` of the shared block.
    ///
    /// - Parameter seed: of the `random` choice.
    public func sources(_ layer: Int, _ method: Method, seed: UInt64) -> [Int] {
        switch method {
        case .stepwise: return [grid(layer, of: layerCount)]
        case .lower: return [inner.lowerBound + layer]
        case .upper: return [inner.upperBound - layerCount + 1 + layer]
        case .random: return [drawn(seed)[layer]]
        case .average, .same:
            return (0..<layerCount * count).filter {
                self.layer(of: $0) == layer
            }.map(counterpart)
        }
    }

    /// The layer of the shared block that application `application` of the unrolled one uses.
    func layer(of application: Int) -> Int {
        sharing.place(application, layerCount: layerCount, count: count).layer
    }

    /// Point `index` of `count` over `inner`, halves to even as in the original code.
    private func grid(_ index: Int, of count: Int) -> Int {
        guard count > 1 else { return inner.lowerBound }
        let offset = Double((inner.count - 1) * index) / Double(count - 1)
        return Int((Double(inner.lowerBound) + offset).rounded(.toNearestOrEven))
    }

    /// `layerCount` of the layers, by a partial Fisher-Yates shuffle.
    private func drawn(_ seed: UInt64) -> [Int] {
        var layers = Array(inner)
        let words = Philox.words(PhiloxStream(seed: seed, c: 2), count: layerCount)
        for i in 0..<layerCount { layers.swapAt(i, i + Int(words[i]) % (layers.count - i)) }
        return layers.prefix(layerCount).sorted()
    }
}
