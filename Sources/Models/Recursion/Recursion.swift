/// A shared block in the list of layers, written out once for every application.
///
/// What the pipeline needs to know of it to lay it on a ring of ranks.
public struct Recursion: Sendable {
    /// Places in the model's list of layers.
    public let layers: Range<Int>
    /// How often the block is applied (`R`).
    public let count: Int
    /// Layers of the list that one application takes, the step layer or router before it included.
    public let blockLength: Int
    public let sharing: RecursionSharing
    /// Factor on the low-rank corrections; nil without relaxation.
    public var lowRankScale: Float?
    /// The applications that generation runs; nil: all.
    var generated: Set<Int>?

    /// Whether generation runs an application, counted from 0.
    public func isGenerated(_ application: Int) -> Bool { generated?.contains(application) ?? true }
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
/// - `depth` in their place: a core iterated from a random state (`RecurrentDepth`).
/// - `signals` (`StepSignals`), `halting` (`AdaptiveHalting`): a Universal Transformer; `cycle` only.
/// - `share_key_values` (false): attention of later recursions has queries only and attends to the keys and values of the
///   first one.
/// - `early_exit`: a loss at the end of every recursion (`EarlyExit`); needs `sharing: cycle`.
/// - `router`: lets only some tokens through each application (`RouterSettings`); needs `sharing: cycle`.
///
/// Names follow arXiv 2507.10524's code: `model.layers.{l}` with `l` the first application in the unrolled model; what an
/// application has for itself carries its own number. Layers of a group with a router, `F` its first number:
/// `model.layers.{F}.block.{j}` and for recursion `r`'s own `model.layers.{F+r}.block.{j}`, the next layer `F + R`; of type
/// token `model.layers.{F}.block_list.{r}.{j}`, the next layer `F + 1`.
struct RecursionSettings {
    let count: Int
    let sharing: RecursionSharing
    let sharesNorms: Bool
    let relaxation: Relaxation?
    let signals: ConfigurationReader?
    let halting: AdaptiveHalting?
    let sharesKeyValues: Bool
    let earlyExit: EarlyExit?
    let router: RouterSettings?

    init(_ reader: ConfigurationReader) throws(ConfigurationError) {
        count = try reader.int("count", default: nil, in: 1...10_000)
        sharing = try reader.choice("sharing", default: .cycle)
        sharesNorms = try reader.bool("share_norms", default: true)
        relaxation = reader.has("relaxation") ? try Relaxation(try reader.section("relaxation")) : nil
        signals = reader.has("signals") ? try reader.section("signals") : nil
        halting = reader.has("halting") ? try AdaptiveHalting(try reader.section("halting")) : nil
        earlyExit =
            reader.has("early_exit") ? try EarlyExit(try reader.section("early_exit"), count: count) : nil
        for key in ["halting", "router"] where earlyExit != nil && reader.has(key) {
            throw reader.error(key, "decides by itself how far a token goes; remove it or early_exit")
        }
        for key in ["signals", "halting", "early_exit"] where reader.has(key) && sharing != .cycle {
            throw reader.error(key, "it acts between applications of the whole block; use sharing: cycle")
        }
        sharesKeyValues = try reader.bool("share_key_values", default: false)
        guard reader.has("router") else {
            router = nil
            return
        }
        if sharing != .cycle { throw reader.error("router", "needs sharing: cycle, not \(sharing.rawValue)") }
        if count < 2 { throw reader.error("router", "needs a count of at least 2, not \(count)") }
        if signals != nil || halting != nil {
            throw reader.error("router", "a group has either a router or signals and halting; remove one of them")
        }
        let section = try reader.section("router")
        let router = try RouterSettings(section, count: count)
        if router.updatesKeys, !sharesKeyValues {
            throw section.error("update_keys", "only shared keys can be updated; set share_key_values: true")
        }
        if sharesKeyValues, !router.budgets[0].isWhole {
            throw section.error(
                "capacity",
                "later recursions attend to all tokens of the first; begin with 1, or set share_key_values: false")
        }
        self.router = router
    }

    /// Whether a layer comes before every application of the block.
    var hasSteps: Bool { signals != nil || halting != nil }

    /// Beginnings of the names that every application has for itself.
    var unshared: [String] { (sharesNorms ? [] : Block.normNames) + (router?.unshared ?? []) }

    func keyValues(_ recursion: Int) -> KeyValueUse {
        if !sharesKeyValues || count == 1 { return .own }
        return recursion == 0 ? .lent : router?.updatesKeys == true ? .updated : .borrowed
    }

    /// Canonical prefixes of a layer: of what its applications share, and of what this one has for itself.
    func prefixes(
        _ place: (layer: Int, recursion: Int, firstUse: Int), application: Int, firstName: Int
    ) -> (shared: String, own: String) {
        func expert(_ r: Int) -> String { "model.layers.\(firstName + r).block.\(place.layer)" }
        func token(_ r: Int) -> String { "model.layers.\(firstName).block_list.\(r).\(place.layer)" }
        switch router?.kind {
        case nil: return ("model.layers.\(firstName + place.firstUse)", "model.layers.\(firstName + application)")
        case .expert: return (expert(0), expert(place.recursion))
        case .token: return (token(0), token(place.recursion))
        }
    }
}
