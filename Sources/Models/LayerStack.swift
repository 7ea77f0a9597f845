import Autograd

/// Builds the layers between embedding and head from the list in a configuration.
final class LayerStack {
    private let registry: ParameterRegistry
    private let defaults: LayerDefaults
    private(set) var layers: [any HiddenLayer] = []
    private(set) var links: [LayerLink] = []
    private(set) var recursions: [Recursion] = []
    /// Of the activation that leaves the last layer so far.
    private(set) var width: Int
    /// The number that the next layer has in canonical names.
    private var nextName = 0

    init(_ registry: ParameterRegistry, _ defaults: LayerDefaults, width: Int) {
        self.registry = registry
        self.defaults = defaults
        self.width = width
    }

    /// - Throws: `ConfigurationError` at the offending key.
    func append(_ entries: [ConfigurationReader]) throws(ConfigurationError) { try append(entries, depth: 0) }

    private func append(_ entries: [ConfigurationReader], depth: Int) throws(ConfigurationError) {
        for entry in entries {
            let count = try entry.int("repeat", default: 1, in: 1...100_000)
            if entry.has("layers") {
                if depth == 8 { throw entry.error("layers", "groups nest at most eight deep") }
                let inner = try entry.sections("layers")
                if entry.has("recursion") {
                    let section = try entry.section("recursion")
                    for _ in 0..<count { try appendRecursion(section, inner) }
                    try section.finish()
                } else {
                    for _ in 0..<count { try append(inner, depth: depth + 1) }
                }
            } else {
                for _ in 0..<count {
                    append(try Block(entry, builder("model.layers.\(nextName)")))
                    nextName += 1
                }
            }
            try entry.finish()
        }
    }

    /// Number of the next layer in the list that the pipeline cuts, which begins with the embedding.
    private var nextIndex: Int { layers.count + 1 }

    private func builder(_ prefix: String, sharing: LayerSharing? = nil) -> LayerBuilder {
        LayerBuilder(
            registry: registry, prefix: prefix, layerIndex: nextIndex, inputWidth: width, defaults: defaults,
            sharing: sharing)
    }

    private func append(_ layer: any HiddenLayer) {
        layers.append(layer)
        width = layer.outputWidth
    }

    // MARK: Recursions

    private func appendRecursion(
        _ reader: ConfigurationReader, _ entries: [ConfigurationReader]
    ) throws(ConfigurationError) {
        let settings = try RecursionSettings(reader)
        let block = try flattened(entries)
        let (first, firstName, widthIn) = (nextIndex, nextName, width)
        let depth = block.count * settings.count
        for application in 0..<depth {
            let place = settings.sharing.place(application, layerCount: block.count, count: settings.count)
            let sharing = LayerSharing(
                isFirst: place.recursion == 0, ownPrefix: "model.layers.\(firstName + application)",
                unshared: settings.unshared, relaxation: settings.relaxation)
            let prefix = "model.layers.\(firstName + place.firstUse)"
            append(try Block(block[place.layer], builder(prefix, sharing: sharing)))
            if width != widthIn {
                throw block[place.layer].error(
                    "mixer", "the shared block changes the width from \(widthIn) to \(width); every layer must keep it")
            }
        }
        nextName = firstName + depth
        recursions.append(
            Recursion(
                layers: first..<nextIndex, count: settings.count, blockLength: block.count, sharing: settings.sharing,
                lowRankScale: settings.relaxation?.scale))
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
