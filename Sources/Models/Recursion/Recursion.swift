/// A shared block in the list of layers, written out once for every application.
///
/// What the pipeline needs to know of it to lay it on a ring of ranks.
public struct Recursion: Sendable {
    /// Places in the model's list of layers.
    public let layers: Range<Int>
    /// How often the block is applied (`R`).
    public let count: Int
    /// Layers of the list that one application takes.
    public let blockLength: Int
    public let sharing: RecursionSharing
    /// Factor on the low-rank corrections; nil without relaxation.
    public var lowRankScale: Float?
}

/// Which layer of a shared block each application uses (arXiv 2507.10524, table of sharing strategies). The middle
/// strategies are these, with a block before and one after.
public enum RecursionSharing: String, CaseIterable, Sendable {
    /// The whole block, again and again: 0 1 2, 0 1 2.
    case cycle
    /// Each layer as often as it is used, then the next: 0 0, 1 1, 2 2.
    case sequence

    /// What the `application`-th layer of the unrolled block is, counted from 0.
    ///
    /// - Returns: the layer of the shared block, the recursion it is in, and the first application of that layer.
    public func place(
        _ application: Int, layerCount: Int, count: Int
    ) -> (layer: Int, recursion: Int, firstUse: Int) {
        switch self {
        case .cycle:
            let (recursion, layer) = application.quotientAndRemainder(dividingBy: layerCount)
            return (layer, recursion, layer)
        case .sequence:
            let (layer, recursion) = application.quotientAndRemainder(dividingBy: count)
            return (layer, recursion, layer * count)
        }
    }
}

/// Keys of `recursion:` in a group of layers, which makes the group a shared block.
///
/// - `count`: applications (`R`). `sharing`: `cycle` (default) | `sequence`.
/// - `share_norms` (true): false gives every application norms of its own.
/// - `relaxation`: low-rank corrections of each application's own (`Relaxation`).
///
/// Names follow arXiv 2507.10524's code: `model.layers.{l}` with `l` the first application in the unrolled model; what an
/// application has for itself carries its own number.
struct RecursionSettings {
    let count: Int
    let sharing: RecursionSharing
    let sharesNorms: Bool
    let relaxation: Relaxation?

    init(_ reader: ConfigurationReader) throws(ConfigurationError) {
        count = try reader.int("count", default: nil, in: 1...10_000)
        sharing = try reader.choice("sharing", default: .cycle)
        sharesNorms = try reader.bool("share_norms", default: true)
        relaxation = reader.has("relaxation") ? try Relaxation(try reader.section("relaxation")) : nil
    }

    /// Beginnings of the names that every application has for itself.
    var unshared: [String] { sharesNorms ? [] : Block.normNames }
}
