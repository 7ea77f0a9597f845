import Autograd
import Models

/// Where each parameter of a model comes from when it starts from the tensors of a checkpoint.
///
/// Blocks before a shared one are the first layers of the full-depth model, those after it the last. A parameter that only
/// one application of a shared block has (norms, low-rank corrections) belongs to the layer that this application stands
/// for. Parameters outside blocks that the checkpoint lacks (routers) stay as drawn.
struct WeightOrigins {
    enum Origin {
        /// The mean of tensors of the checkpoint.
        case mean([String])
        /// `scale · up · down` approximates tensor `full` minus `base`; one entry for each of the two.
        case correction(of: Parameter, towards: String, scale: Float, isDown: Bool)
        case drawn
    }

    /// In canonical order.
    private(set) var origins: [Origin] = []
    /// Names under which the checkpoint may repeat a tensor, by the name that is read.
    private(set) var aliases: [String: [String]] = [:]
    /// What became of the shared blocks, for the log.
    private(set) var summary: [String] = []

    /// A parameter's place in the blocks.
    private struct Site {
        /// Ordinals of the blocks that use it, ascending.
        var blocks: [Int]
        /// Name within the layer.
        let local: String
    }

    private let model: Model
    private let configuration: InitializationConfiguration
    private let blocks: [Block]
    private var sites: [ObjectIdentifier: Site] = [:]
    /// For each block, the applications of the same layer of a shared block.
    private var partners: [[Int]]
    /// Layers of the full model.
    private let depth: Int
    private let names: Set<String>
    private let path: String

    /// - Parameter names: of the checkpoint's tensors.
    init(
        _ configuration: InitializationConfiguration, model: Model, names: [String], seed: UInt64
    ) throws(RunError) {
        self.model = model
        self.configuration = configuration
        self.names = Set(names)
        path = configuration.checkpoint
        blocks = model.hidden.compactMap { $0 as? Block }.filter { !$0.isExit }
        partners = blocks.indices.map { [$0] }
        for (ordinal, block) in blocks.enumerated() {
            for use in block.uses {
                let local = Self.local(use.parameter.name, in: block)
                sites[ObjectIdentifier(use.parameter), default: Site(blocks: [], local: local)].blocks.append(ordinal)
            }
        }
        let numbers = Set(names.compactMap { Self.layerName($0)?.layer })
        depth = (numbers.max() ?? -1) + 1
        if isSame {
            placeByName()
        } else {
            if let missing = (0..<depth).first(where: { !numbers.contains($0) }) {
                throw failure(
                    "has tensors of layer \(depth - 1) but none of layer \(missing): not a full-depth model. For a checkpoint of the same shared blocks set train.initialize_from.method: same"
                )
            }
            try placeByDepth(seed)
        }
        try requireAllUsed(names)
    }

    private var isSame: Bool { model.recursions.isEmpty || configuration.method == .same }

    private func failure(_ message: String) -> RunError { .checkpoint(path: path, message: message) }

    /// `12` and `mlp.up_proj.weight` of `model.layers.12.mlp.up_proj.weight`.
    private static func layerName(_ name: String) -> (layer: Int, local: String)? {
        let parts = name.split(separator: ".", maxSplits: 3)
        guard parts.count == 4, parts[0] == "model", parts[1] == "layers", let layer = Int(parts[2]) else { return nil }
        return (layer, String(parts[3]))
    }

    /// A parameter's name within the layer. What an application has for itself stands under another number than the layer's
    /// own, and with a router under `block.{j}` besides.
    private static func local(_ name: String, in block: Block) -> String {
        if name.hasPrefix(block.name + ".") { return String(name.dropFirst(block.name.count + 1)) }
        var parts = name.split(separator: ".").dropFirst(3)
        if parts.first == "block" { parts = parts.dropFirst(2) }
        if parts.first == "block_list" { parts = parts.dropFirst(3) }
        return parts.joined(separator: ".")
    }

    // MARK: The same shared blocks

    private mutating func placeByName() {
        for parameter in model.registry.parameters {
            origins.append(.mean([parameter.name]))
            guard let site = sites[ObjectIdentifier(parameter)] else { continue }
            let others = site.blocks.map { "model.layers.\($0).\(site.local)" }
                .filter { names.contains($0) && model.registry.parameter(named: $0) == nil }
            if !others.isEmpty { aliases[parameter.name] = others }
        }
        repeatTiedHead()
    }

    /// A tied model's checkpoint may hold the head as well.
    private mutating func repeatTiedHead() {
        let head = "lm_head.weight"
        if model.registry.parameter(named: head) == nil, names.contains(head) {
            aliases["model.embed_tokens.weight", default: []].append(head)
        }
    }

    // MARK: From full depth

    private mutating func placeByDepth(_ seed: UInt64) throws(RunError) {
        let places = try conversions().enumerated().map { ordinal, place in
            guard let (conversion, application, scale) = place else {
                let layer = ordinal < firstShared ? ordinal : depth - blocks.count + ordinal
                return (counterpart: layer, sources: [layer], scale: Float(1))
            }
            let layer = conversion.layer(of: application)
            return (
                conversion.counterpart(application), conversion.sources(layer, configuration.method, seed: seed), scale
            )
        }
        for parameter in model.registry.parameters {
            guard let site = sites[ObjectIdentifier(parameter)] else {
                origins.append(
                    isBesideBlocks(parameter.name) && !names.contains(parameter.name)
                        ? .drawn : .mean([parameter.name]))
                continue
            }
            let place = places[site.blocks[0]]
            func tensor(_ layer: Int, _ local: String) -> String { "model.layers.\(layer).\(local)" }
            if let (matrix, isDown) = Self.corrected(site.local) {
                guard configuration.lowRank == .svd else { origins.append(.drawn); continue }
                let base = blocks[site.blocks[0]].uses.first { sites[ObjectIdentifier($0.parameter)]!.local == matrix }!
                origins.append(
                    .correction(
                        of: base.parameter, towards: tensor(place.counterpart, matrix), scale: place.scale,
                        isDown: isDown))
            } else if isOwn(parameter, site) {
                origins.append(.mean([tensor(place.counterpart, site.local)]))
            } else {
                origins.append(.mean(place.sources.map { tensor($0, site.local) }))
            }
        }
        repeatTiedHead()
    }

    /// Whether other applications of the same layer have a parameter of their own in its stead.
    private func isOwn(_ parameter: Parameter, _ site: Site) -> Bool {
        partners[site.blocks[0]].contains { ordinal in
            blocks[ordinal].uses.contains {
                $0.parameter !== parameter && sites[ObjectIdentifier($0.parameter)]!.local == site.local
            }
        }
    }

    /// Ordinal of the first block of the first recursion.
    private var firstShared: Int { ordinals(of: model.recursions[0]).first! }

    private func ordinals(of recursion: Recursion) -> [Int] {
        var ordinal = -1
        return model.hidden.indices.compactMap { index in
            guard let block = model.hidden[index] as? Block, !block.isExit else { return nil }
            ordinal += 1
            return recursion.layers.contains(index + 1) ? ordinal : nil
        }
    }

    /// For each block that belongs to a recursion: how that converts, which application it is, and the factor on
    /// corrections.
    private mutating func conversions() throws(RunError) -> [(DepthConversion, application: Int, scale: Float)?] {
        var result = [(DepthConversion, application: Int, scale: Float)?](repeating: nil, count: blocks.count)
        if model.recursions.count > 1, depth != blocks.count {
            throw failure(
                "has \(depth) layers, the model unrolls to \(blocks.count); with several shared blocks they must be equal"
            )
        }
        for recursion in model.recursions {
            let ordinals = ordinals(of: recursion)
            let layerCount = ordinals.count / recursion.count
            let (first, after) = (ordinals.first!, blocks.count - 1 - ordinals.last!)
            let last = depth - 1 - after
            guard last - first + 1 >= layerCount else {
                throw failure(
                    "has \(depth) layers, \(max(0, last - first + 1)) of them between the model's first \(first) and last \(after); the shared block needs at least \(layerCount)"
                )
            }
            let conversion = DepthConversion(
                inner: first...last, layerCount: layerCount, count: recursion.count, sharing: recursion.sharing)
            for (application, ordinal) in ordinals.enumerated() {
                partners[ordinal] = ordinals.indices.filter {
                    conversion.layer(of: $0) == conversion.layer(of: application)
                }.map { ordinals[$0] }
                result[ordinal] = (conversion, application, recursion.lowRankScale ?? 1)
            }
            summary.append(
                "shared block of \(layerCount) × \(recursion.count) from layers \(first)-\(last), \(configuration.method.rawValue)"
            )
        }
        return result
    }

    private func isBesideBlocks(_ name: String) -> Bool {
        !model.embedding.uses.contains { $0.parameter.name == name }
            && !model.head.uses.contains { $0.parameter.name == name }
    }

    /// The matrix that a low-rank factor corrects, by name within the layer.
    private static func corrected(_ local: String) -> (matrix: String, isDown: Bool)? {
        for (suffix, isDown) in [(".lora_A.weight", true), (".lora_B.weight", false)] where local.hasSuffix(suffix) {
            return (local.dropLast(suffix.count) + ".weight", isDown)
        }
        return nil
    }

    // MARK: Completeness

    /// A tensor without a place means that the configuration describes another model.
    private func requireAllUsed(_ all: [String]) throws(RunError) {
        var known = Set(model.registry.parameters.map(\.name))
        for names in aliases.values { known.formUnion(names) }
        // Layers that a conversion leaves out are known by the names of the others.
        let locals = isSame ? [] : Set(sites.values.map(\.local))
        for name in all where !known.contains(name) && !name.hasSuffix(".rotary_emb.inv_freq") {
            if let local = Self.layerName(name)?.local, locals.contains(local) { continue }
            throw failure(
                "holds a tensor '\(name)', for which the model has no place; describe in 'model' the model it was written by"
            )
        }
    }
}
