/// A connection past the layers between: the output of layer `from` is added to the input of layer `to`.
///
/// Layers count as the pipeline cuts them: 0 the embedding, then the blocks, last the head (long skips as in U-Net,
/// arXiv 1505.04597, by addition).
public struct LayerSkip: Hashable, Sendable {
    public let from: Int
    public let to: Int

    /// Reads `model.skips`, a list of `{from: 1, to: 6}`.
    ///
    /// - Parameter widths: of the output of every layer but the head.
    static func read(
        _ reader: ConfigurationReader, widths: [Int]
    ) throws(ConfigurationError) -> [LayerSkip] {
        var skips: [LayerSkip] = []
        for entry in try reader.sections("skips") {
            let from = try entry.int("from", default: nil, in: 0...widths.count)
            let to = try entry.int("to", default: nil, in: 0...widths.count)
            try entry.finish()
            if to < from + 2 {
                throw entry.error(
                    "to", "layer \(to) does not lie past a layer after \(from); use \(from + 2) to \(widths.count)")
            }
            if widths[from] != widths[to - 1] {
                throw entry.error(
                    "to",
                    "layer \(to) takes width \(widths[to - 1]), layer \(from) gives \(widths[from]); a skip joins equal widths"
                )
            }
            let skip = LayerSkip(from: from, to: to)
            if skips.contains(skip) { throw entry.error("to", "this skip stands in the list already") }
            skips.append(skip)
        }
        if skips.count > Self.countLimit {
            throw reader.error("skips", "\(skips.count) skips; at most \(Self.countLimit) are possible")
        }
        return skips
    }

    /// Each may become an edge between stages, and actions number those in seven bits.
    static let countLimit = 127
}
