import Models

/// `optimizer:` — `type: adamw | adam | sgd`, and the constants of each.
public struct OptimizerConfiguration: Sendable {
    public enum Kind: String, CaseIterable, Sendable {
        /// Decoupled weight decay (arXiv 1711.05101).
        case adamw
        /// Weight decay added to the gradient (arXiv 1412.6980).
        case adam
        /// Momentum and Nesterov as in torch.optim.SGD.
        case sgd
    }

    public var kind: Kind
    public var beta1: Double
    public var beta2: Double
    public var epsilon: Double
    /// Acts on matrices only; norms and biases are not decayed.
    public var weightDecay: Double
    public var momentum: Double
    public var isNesterov: Bool
    /// `clip_norm`: largest global gradient norm; nil leaves gradients alone.
    public var clipNorm: Double?

    init(_ reader: ConfigurationReader) throws(ConfigurationError) {
        kind = try reader.choice("type", as: Kind.self, default: .adamw)
        (beta1, beta2, epsilon, momentum, isNesterov) = (0.9, 0.95, 1e-8, 0, false)
        if kind == .sgd {
            momentum = try reader.double("momentum", default: 0, in: 0...0.9999)
            isNesterov = try reader.bool("nesterov", default: false)
            if isNesterov, momentum == 0 { throw reader.error("nesterov", "needs momentum above 0") }
        } else {
            let betas = try reader.doubleList("betas", default: [0.9, 0.95], in: 0...0.999999, count: 2)
            (beta1, beta2) = (betas[0], betas[1])
            epsilon = try reader.double("epsilon", default: 1e-8, above: 0)
        }
        weightDecay = try reader.double("weight_decay", default: kind == .adamw ? 0.01 : 0, in: 0...1000)
        clipNorm = try reader.optionalDouble("clip_norm", above: 0)
    }
}

extension OptimizerConfiguration {
    /// Names of the state tensors that each parameter has.
    public var stateNames: [String] {
        switch kind {
        case .adam, .adamw: ["exp_avg", "exp_avg_sq"]
        case .sgd: momentum > 0 ? ["momentum_buffer"] : []
        }
    }
}
