import Autograd
import Kernels
import Pipeline
import Tensors

/// Updates the parameters that one rank holds, or with replicas its share of each. State is keyed by canonical
/// parameter name (promise P3).
///
/// Not collective: the caller hands in the global clip factor.
public final class Optimizer {
    public let configuration: OptimizerConfiguration
    /// Which elements of each parameter are this optimiser's; it keeps state for no others.
    public let share: ReplicaShare
    private let context: ComputeContext
    /// `exp_avg` and `exp_avg_sq`, or `momentum_buffer`, in torch's names.
    public private(set) var state: [String: [String: Tensor]] = [:]

    /// Names of the state tensors that each parameter has.
    public var stateNames: [String] { configuration.stateNames }

    public init(_ configuration: OptimizerConfiguration, share: ReplicaShare = .whole, context: ComputeContext) {
        self.share = share
        self.configuration = configuration
        self.context = context
    }

    /// Allocates zero state for `parameter`, unless it has a rule of its own.
    public func prepare(_ parameter: Parameter) {
        guard state[parameter.name] == nil, parameter.hasGradient else { return }
        var tensors: [String: Tensor] = [:]
        let shape = share == .whole ? parameter.shape : Shape(share.range(of: parameter.shape.count).count)
        for name in stateNames { tensors[name] = context.zeros(shape, .optimizer) }
        state[parameter.name] = tensors
    }

    /// One update of this optimiser's share of one parameter.
    ///
    /// - Parameters:
    ///   - gradient: the share of the sum over the batch; multiplied by `scale` (clipping) on the fly.
    ///   - step: counted from 1, for the bias corrections and the first momentum.
    public func update(_ parameter: Parameter, gradient: TensorPiece, scale: Double, rate baseRate: Double, step: Int) {
        let range = share.range(of: parameter.shape.count)
        require(
            gradient.range == range,
            "Optimizer.update: got elements \(gradient.range) of '\(parameter.name)'; expected \(range)")
        defer { parameter.valueChanged() }
        let tensors = state[parameter.name] ?? [:]
        let decay = parameter.decays ? configuration.weightDecay : 0
        let (value, count) = (parameter.value.pointer + range.lowerBound, range.count)
        let rate: Double
        switch parameter.updateRule {
        case .optimizer(let rateFactor): rate = baseRate * rateFactor
        case .sign(let step):
            for i in 0..<count where gradient.pointer[i] != 0 {
                value[i] -= gradient.pointer[i] > 0 ? step : -step
            }
            return
        }
        switch configuration.kind {
        case .adam, .adamw:
            var settings = OptimizerKernels.Adam(learningRate: rate)
            (settings.beta1, settings.beta2, settings.epsilon) =
                (configuration.beta1, configuration.beta2, configuration.epsilon)
            if configuration.kind == .adamw { settings.decoupledDecay = decay } else { settings.l2Penalty = decay }
            settings.gradientScale = Float(scale)
            OptimizerKernels.adam(
                settings, step: step, parameters: value, gradient: gradient.pointer,
                first: tensors["exp_avg"]!.pointer, second: tensors["exp_avg_sq"]!.pointer, count: count,
                threads: context.threads)
        case .sgd:
            var settings = OptimizerKernels.SGD(learningRate: rate)
            settings.momentum = configuration.momentum
            settings.nesterov = configuration.isNesterov
            settings.l2Penalty = decay
            settings.gradientScale = Float(scale)
            OptimizerKernels.sgd(
                settings, parameters: value, gradient: gradient.pointer,
                velocity: tensors["momentum_buffer"]?.pointer, count: count, threads: context.threads)
        }
    }
}
