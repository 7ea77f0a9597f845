import Autograd
import Tensors

/// The parameters of a model in canonical order: the order in which the layers, as written, first
/// use them. Gradient norms, checkpoints and reports follow this order on every rank.
public final class ParameterRegistry {
    public private(set) var parameters: [Parameter] = []
    private var byName: [String: Parameter] = [:]

    public init() {}

    public func parameter(named name: String) -> Parameter? { byName[name] }

    /// Declares a parameter and its first use.
    public func declare(
        _ name: String, _ shape: Shape, _ initializer: Initializer, decays: Bool,
        updateRule: UpdateRule = .optimizer(rateFactor: 1)
    ) -> ParameterUse {
        precondition(byName[name] == nil, "parameter '\(name)' declared twice")
        return add(name, shape, initializer, decays: decays, updateRule: updateRule).addUse()
    }

    /// An application that never has a gradient; the first one declares the parameter.
    func read(_ name: String, _ shape: Shape, _ initializer: Initializer, decays: Bool) -> ParameterUse {
        (byName[name] ?? add(name, shape, initializer, decays: decays)).addReader()
    }

    private func add(
        _ name: String, _ shape: Shape, _ initializer: Initializer, decays: Bool,
        updateRule: UpdateRule = .optimizer(rateFactor: 1)
    ) -> Parameter {
        let parameter = Parameter(
            name: name, shape: shape, initializer: initializer, decays: decays, updateRule: updateRule)
        parameters.append(parameter)
        byName[name] = parameter
        return parameter
    }

    /// One more use of a declared parameter, of the shape it was declared with (shared blocks).
    func reuse(_ name: String, _ shape: Shape) -> ParameterUse {
        let use = reuse(name)
        precondition(use.shape == shape, "parameter '\(name)' is \(use.shape); a use-site takes it for \(shape)")
        return use
    }

    /// One more use of a declared parameter (tied weights).
    public func reuse(_ name: String) -> ParameterUse {
        guard let parameter = byName[name] else { fatalError("tied parameter '\(name)' is not declared") }
        return parameter.addUse()
    }

    /// Elements over all parameters, shared ones counted once.
    public var elementCount: Int { parameters.reduce(0) { $0 + $1.shape.count } }
}

/// Hands names and defaults to a layer under construction.
public final class LayerBuilder {
    public let registry: ParameterRegistry
    /// Canonical prefix, `model.layers.3` for example.
    public let prefix: String
    /// Position of the layer in the list that the pipeline cuts; keys its random streams.
    public let layerIndex: Int
    /// Width of the activation that enters.
    public let inputWidth: Int
    public let defaults: LayerDefaults
    /// How the layer shares its parameters with other applications of the same block; nil when it is alone.
    let sharing: LayerSharing?
    private(set) var uses: [ParameterUse] = []
    /// Of all low-rank corrections together: floats per token kept for the backward pass, and forward FLOPs.
    private(set) var lowRankCost = (saved: 0, flops: 0.0)
    private var nextStream = 0
    /// The builder of the mixer that this one's mixer is a part of.
    private var outer: LayerBuilder?

    public init(
        registry: ParameterRegistry, prefix: String, layerIndex: Int, inputWidth: Int, defaults: LayerDefaults,
        sharing: LayerSharing? = nil
    ) {
        self.registry = registry
        self.sharing = sharing
        self.prefix = prefix
        self.layerIndex = layerIndex
        self.inputWidth = inputWidth
        self.defaults = defaults
    }

    /// For a mixer inside a mixer: what it calls `mixer.weight` becomes `mixer.<name>.weight`.
    func nested(_ name: String) -> LayerBuilder {
        let inner = LayerBuilder(
            registry: registry, prefix: "\(prefix).mixer.\(name)", layerIndex: layerIndex, inputWidth: inputWidth,
            defaults: defaults, sharing: sharing)
        inner.outer = self
        return inner
    }

    private func fullName(_ name: String) -> String {
        let part = outer != nil && name.hasPrefix("mixer.") ? String(name.dropFirst("mixer.".count)) : name
        return "\(prefix).\(part)"
    }

    /// A matrix `[out, in]`, decayed, drawn as the model's `Initialization` says unless said otherwise.
    public func matrix(_ name: String, _ rows: Int, _ columns: Int, _ initializer: Initializer? = nil) -> ParameterUse {
        tensor(
            name, Shape(rows, columns), initializer ?? defaults.matrixInitializer(name, rows: rows, columns: columns),
            decays: true)
    }

    /// A vector, not decayed.
    public func vector(_ name: String, _ count: Int, _ initializer: Initializer) -> ParameterUse {
        tensor(name, Shape(count), initializer, decays: false)
    }

    /// A tensor of any shape; `decays` says whether weight decay applies.
    public func tensor(_ name: String, _ shape: Shape, _ initializer: Initializer, decays: Bool) -> ParameterUse {
        guard let sharing else { return keep(registry.declare(fullName(name), shape, initializer, decays: decays)) }
        if sharing.lap?.isForwardOnly == true {
            return keep(registry.read(fullName(name), shape, initializer, decays: decays))
        }
        if sharing.isOwn(name) {
            return keep(registry.declare("\(sharing.ownPrefix).\(name)", shape, initializer, decays: decays))
        }
        return keep(
            sharing.isFirst
                ? registry.declare(fullName(name), shape, initializer, decays: decays)
                : registry.reuse(fullName(name), shape))
    }

    /// The low-rank correction that this application of a shared matrix has for itself, where it has one.
    func lowRankUpdate(_ name: String, _ input: Int, _ output: Int) -> LowRankUpdate? {
        guard let sharing, let relaxation = sharing.relaxation, relaxation.adapts(name) else { return nil }
        let rank = min(relaxation.rank, input, output)
        lowRankCost.saved += 2 * rank
        lowRankCost.flops += Double(2 * rank * (input + output))
        let prefix = "\(sharing.ownPrefix).\(name)"
        return LowRankUpdate(
            down: keep(
                registry.declare(
                    "\(prefix).lora_A.weight", Shape(rank, input),
                    .uniform(bound: 1 / Float(input).squareRoot()), decays: true)),
            up: keep(registry.declare("\(prefix).lora_B.weight", Shape(output, rank), .constant(0), decays: true)),
            scale: relaxation.scale)
    }

    /// A tensor that is this layer's alone and that a step changes by a rule of its own.
    func tensor(
        _ name: String, _ shape: Shape, _ initializer: Initializer, decays: Bool, updateRule: UpdateRule
    ) -> ParameterUse {
        keep(registry.declare("\(prefix).\(name)", shape, initializer, decays: decays, updateRule: updateRule))
    }

    public func tied(to name: String) -> ParameterUse { keep(registry.reuse(name)) }

    /// A random stream of its own for one dropout site.
    public func dropoutStream() -> Int {
        if let outer { return outer.dropoutStream() }
        defer { nextStream += 1 }
        precondition(nextStream < 256, "a layer has at most 256 dropout sites")
        return layerIndex << 8 | nextStream
    }

    private func keep(_ use: ParameterUse) -> ParameterUse {
        if let outer { return outer.keep(use) }
        uses.append(use)
        return use
    }
}

/// Model-wide settings that layers inherit.
public struct LayerDefaults: Sendable {
    public var norm: NormKind
    public var normEpsilon: Double
    public var dropout: Double
    public var usesRotaryPositions: Bool
    public var initialization: Initialization
    public var initializerRange: Double
    /// Of the embedding.
    public var modelWidth: Int
    /// Blocks as applied, a recurrent depth's by their mean number.
    public var depth: Int

    public init(
        norm: NormKind = .rmsNorm, normEpsilon: Double = 1e-5, dropout: Double = 0, usesRotaryPositions: Bool = true,
        initialization: Initialization = .normal, initializerRange: Double = 0.02, modelWidth: Int = 1, depth: Int = 1
    ) {
        self.norm = norm
        self.normEpsilon = normEpsilon
        self.dropout = dropout
        self.usesRotaryPositions = usesRotaryPositions
        self.initialization = initialization
        self.initializerRange = initializerRange
        self.modelWidth = modelWidth
        self.depth = depth
    }
}
