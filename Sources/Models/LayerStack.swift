import Autograd

/// Builds the layers between embedding and head from the list in a configuration.
final class LayerStack {
    private let registry: ParameterRegistry
    private let defaults: LayerDefaults
    private let finalNorm: NormKind
    private(set) var layers: [any HiddenLayer] = []
    var links: [LayerLink] = []
    var recursions: [Recursion] = []
    /// Of the group that has exits.
    private(set) var earlyExit: EarlyExit?
    /// Where the exits before the last begin.
    private(set) var exitSources: [Int] = []
    /// The blocks behind that group, with their prefixes.
    private(set) var coda: [(entry: ConfigurationReader, prefix: String)] = []
    /// Whether the final norm acts before the head, too.
    var usesFinalNorm = false
    /// Of the activation that leaves the last layer so far.
    private(set) var width: Int
    /// The step layer that came last.
    private var lastStep = 0
    /// The number that the next layer has in canonical names.
    var nextName = 0

    init(_ registry: ParameterRegistry, _ defaults: LayerDefaults, width: Int, finalNorm: NormKind) {
        self.finalNorm = finalNorm
        self.registry = registry
        self.defaults = defaults
        self.width = width
    }

    /// - Throws: `ConfigurationError` at the offending key.
    func append(_ entries: [ConfigurationReader]) throws(ConfigurationError) { try append(entries, depth: 0) }

    /// Most blocks as applied: cutting them into stages takes memory for the square of their number.
    static let blockLimit = 10_000

    /// Blocks of a list as applied, with a recurrent depth's `iterations`.
    ///
    /// - Throws: where they are more than `blockLimit`.
    static func depth(
        _ entries: [ConfigurationReader], _ iterations: KeyPath<RecurrentDepth, Int>
    ) throws(ConfigurationError) -> Int {
        var sum = 0
        for entry in entries {
            var count = 1
            if entry.has("layers") {
                count = try depth(try entry.sections("layers"), iterations)
                if entry.has("recursion") {
                    let recursion = try entry.section("recursion")
                    count *=
                        recursion.has("depth")
                        ? try RecurrentDepth(recursion, width: 1)[keyPath: iterations]
                        : try RecursionSettings(recursion).count
                }
            }
            sum += try entry.int("repeat", default: 1, in: 1...100_000) * count
            if sum > blockLimit {
                throw entry.error(
                    entry.has("recursion") ? "recursion" : "repeat",
                    "the model comes to \(sum) blocks as applied; at most \(blockLimit) are possible")
            }
        }
        return sum
    }

    private func append(_ entries: [ConfigurationReader], depth: Int) throws(ConfigurationError) {
        for entry in entries {
            let count = try entry.int("repeat", default: 1, in: 1...100_000)
            if entry.has("layers") {
                if depth == 8 { throw entry.error("layers", "groups nest at most eight deep") }
                let inner = try entry.sections("layers")
                if entry.has("recursion") {
                    if inner.isEmpty { throw entry.error("layers", "a shared block needs a layer at least") }
                    let section = try entry.section("recursion")
                    for _ in 0..<count { try appendRecursion(section, inner) }
                    try section.finish()
                } else {
                    for _ in 0..<count { try append(inner, depth: depth + 1) }
                }
            } else {
                for _ in 0..<count {
                    let prefix = "model.layers.\(nextName)"
                    let widthIn = width
                    append(try Block(entry, builder(prefix)))
                    nextName += 1
                    guard earlyExit != nil else { continue }
                    if width != widthIn {
                        throw entry.error(
                            "mixer",
                            "changes the width from \(widthIn) to \(width) behind a group with early_exit; every block there must keep it"
                        )
                    }
                    coda.append((entry, prefix))
                }
            }
            try entry.finish()
        }
    }

    /// Number of the next layer in the list that the pipeline cuts, which begins with the embedding.
    var nextIndex: Int { layers.count + 1 }

    func builder(_ prefix: String, sharing: LayerSharing? = nil) -> LayerBuilder {
        LayerBuilder(
            registry: registry, prefix: prefix, layerIndex: nextIndex, inputWidth: width, defaults: defaults,
            sharing: sharing)
    }

    func append(_ layer: any HiddenLayer) {
        layers.append(layer)
        width = layer.outputWidth
    }

    // MARK: Recursions

    private func appendRecursion(
        _ reader: ConfigurationReader, _ entries: [ConfigurationReader]
    ) throws(ConfigurationError) {
        let block = try flattened(entries)
        if earlyExit != nil {
            throw reader.error(
                "early_exit", "an earlier group has exits, behind which only blocks may stand; remove that group's")
        }
        if reader.has("depth") {
            return try appendRecurrentDepth(try RecurrentDepth(reader, width: width), block, finalNorm: finalNorm)
        }
        let settings = try RecursionSettings(reader)
        let (first, firstName, widthIn) = (nextIndex, nextName, width)
        let depth = block.count * settings.count
        let signals = try settings.signals.map { reader throws(ConfigurationError) in
            try StepSignals(reader, width: widthIn)
        }
        var lenders: [Int: Int] = [:]
        for application in 0..<depth {
            let place = settings.sharing.place(application, layerCount: block.count, count: settings.count)
            if settings.hasSteps, place.layer == 0 {
                appendStep(place.recursion, settings, signals, name: "model.layers.\(firstName)")
            }
            if let router = settings.router, place.layer == 0 {
                append(router, place.recursion, firstName, block.count)
            }
            let prefixes = settings.prefixes(place, application: application, firstName: firstName)
            let sharing = LayerSharing(
                isFirst: place.recursion == 0, ownPrefix: prefixes.own, unshared: settings.unshared,
                relaxation: settings.relaxation, keyValues: settings.keyValues(place.recursion),
                budget: settings.router?.budgets[place.recursion])
            let layer = try Block(block[place.layer], builder(prefixes.shared, sharing: sharing))
            if let lender = lenders[place.layer] { lend(layer, from: lender) }
            if sharing.keyValues == .lent { lenders[place.layer] = nextIndex }
            append(layer)
            if width != widthIn {
                throw block[place.layer].error(
                    "mixer", "the shared block changes the width from \(widthIn) to \(width); every layer must keep it")
            }
        }
        let end = nextIndex
        if settings.relaxation != nil, !layers[(first - 1)...].flatMap(\.uses).contains(where: \.isCorrection) {
            throw reader.error(
                "relaxation",
                "no layer of the block has a matrix that 'targets' names; name others, or remove the section")
        }
        if let router = settings.router { append(router, settings.count, firstName, block.count) }
        nextName = firstName + (settings.router.map { $0.kind == .expert ? settings.count : 1 } ?? depth)
        recursions.append(
            Recursion(
                layers: first..<end, count: settings.count, blockLength: (end - first) / settings.count,
                sharing: settings.sharing, lowRankScale: settings.relaxation?.scale))
        earlyExit = settings.earlyExit
        if earlyExit != nil {
            exitSources = (1..<settings.count).map { first + $0 * (end - first) / settings.count - 1 }
        }
        if let halting = settings.halting { appendAnswer(halting, settings, name: "model.layers.\(firstName)") }
    }

    /// The router before a recursion, or what ends the group, with the links from the one before.
    private func append(_ router: RouterSettings, _ recursion: Int, _ firstName: Int, _ blockLength: Int) {
        if recursion > 0 {
            let (from, to) = (nextIndex - 1 - blockLength, nextIndex)
            links.append(LayerLink(from: from, to: to, port: .residual, width: width))
            let isToken = router.kind == .token
            if isToken || router.isWeighted {
                links.append(
                    LayerLink(from: from, to: to, port: .gates, width: isToken ? TokenRouter.gatesWidth(router) : 1))
            }
        }
        switch router.kind {
        case .expert:
            let number = firstName + min(recursion, router.budgets.count - 1)
            append(ExpertRouter(router, recursion: recursion, builder("model.layers.\(number)")))
        case .token: append(TokenRouter(router, recursion: recursion, builder("model.layers.\(firstName)")))
        }
    }

    /// Keys and values go from a layer to the one that comes next.
    private func lend(_ layer: Block, from lender: Int) {
        guard let attention = layer.mixer as? AttentionMixer else { return }
        for port in [LayerPort.keys, .values] {
            links.append(
                LayerLink(
                    from: lender, to: nextIndex, port: port, width: attention.sharedWidth,
                    extent: .history(window: attention.window)))
        }
    }

    /// The layer before an application, which hands what it knows of halting to the next one.
    private func appendStep(_ recursion: Int, _ settings: RecursionSettings, _ signals: StepSignals?, name: String) {
        if settings.halting != nil, recursion > 0 { linkHalting(after: recursion - 1) }
        lastStep = nextIndex
        append(
            StepLayer(
                application: recursion, of: settings.count, signals: signals, halting: settings.halting,
                builder(name, sharing: .all(isFirst: recursion == 0))))
    }

    private func appendAnswer(_ halting: AdaptiveHalting, _ settings: RecursionSettings, name: String) {
        linkHalting(after: settings.count - 1)
        append(AnswerLayer(halting, builder(name)))
    }

    private func linkHalting(after recursion: Int) {
        let floats = AdaptiveHalting.Progress.width(hasAnswer: recursion > 0, width)
        links.append(LayerLink(from: lastStep, to: nextIndex, port: .halting, width: floats))
    }

    /// The entries of a shared block with repeats written out.
    private func flattened(_ entries: [ConfigurationReader]) throws(ConfigurationError) -> [ConfigurationReader] {
        var result: [ConfigurationReader] = []
        for entry in entries {
            if entry.has("layers") { throw entry.error("layers", "a shared block holds layers only, no groups") }
            result += Array(repeating: entry, count: try entry.int("repeat", default: 1, in: 1...100_000))
        }
        return result
    }
}
