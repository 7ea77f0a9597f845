import Glibc
import Kernels
import Tensors

/// How a parameter's elements are drawn before step 1.
public enum Initializer: Sendable, Equatable {
    case constant(Float)
    case normal(standardDeviation: Float)
    /// Normal, what lies more than three deviations out being drawn again.
    case truncatedNormal(standardDeviation: Float)
    /// Uniform on `(-bound, bound)`.
    case uniform(bound: Float)
    /// `log u`, `u` uniform on `(low, high)`: the logarithm of a decay rate.
    case logUniform(low: Float, high: Float)
    /// `b` with `log(1 + e^b) = d`, `d` log-uniform on `(low, high)` but at least `floor`: the bias of a step size.
    case stepBias(low: Float, high: Float, floor: Float)
    /// `base` everywhere, then `value` added on rows `rows`: a forget-gate bias, for example.
    indirect case shifted(base: Initializer, rows: Range<Int>, value: Float)
    /// `base` everywhere, then `values` added to every group of as many elements: signs that alternate, for example.
    indirect case repeated(base: Initializer, values: [Float])
    /// The elements themselves: time constants spread over a range, for example.
    case values([Float])
}

/// How a step changes a parameter.
public enum UpdateRule: Sendable, Equatable {
    /// By the optimiser, at its rate times a factor.
    case optimizer(rateFactor: Double)
    /// `value −= step · sign(g)`, with `g` what the use-sites have gathered in place of a gradient. It has no part in
    /// the gradient's norm, in clipping or in the optimiser.
    case sign(step: Float)
}

/// One trainable tensor under its canonical name. The name, not the rank, is its identity:
/// checkpoints, random initialisation and the gradient norm are keyed by it.
public final class Parameter {
    public let name: String
    public let shape: Shape
    public let initializer: Initializer
    /// Weight decay applies to matrices, not to norms and biases.
    public let decays: Bool
    public let updateRule: UpdateRule
    /// Every application of this parameter in the model, in order.
    public private(set) var uses: [ParameterUse] = []
    /// Applications that never have a gradient, beside `uses`.
    public private(set) var readers: [ParameterUse] = []
    /// Absent on ranks that own none of its uses and readers.
    public private(set) var storedValue: Tensor?
    /// Counts changes of the value, so that packed copies know when they are stale.
    public private(set) var version = 0

    public init(
        name: String, shape: Shape, initializer: Initializer, decays: Bool,
        updateRule: UpdateRule = .optimizer(rateFactor: 1)
    ) {
        self.updateRule = updateRule
        self.name = name
        self.shape = shape
        self.initializer = initializer
        self.decays = decays
    }

    /// Whether it follows the gradient of the loss.
    public var hasGradient: Bool {
        if case .optimizer = updateRule { true } else { false }
    }

    public var value: Tensor {
        guard let storedValue else { fatalError("parameter '\(name)' is used on a rank that does not own it") }
        return storedValue
    }

    /// To be called by whoever has written to the value.
    public func valueChanged() { version += 1 }

    /// Registers one more use-site.
    public func addUse() -> ParameterUse {
        let use = ParameterUse(parameter: self, index: uses.count)
        uses.append(use)
        return use
    }

    /// Registers an application that never has a gradient.
    public func addReader() -> ParameterUse {
        let use = ParameterUse(parameter: self, index: -1)
        readers.append(use)
        return use
    }

    /// Allocates the value and draws it from `(seed, name)` alone.
    public func materialize(seed: UInt64, _ context: ComputeContext) {
        guard storedValue == nil else { return }
        let value = context.tensor(shape, .parameters)
        Parameter.fill(value, initializer, stream: ParameterStream(seed: seed, name: name, threads: context.threads))
        storedValue = value
    }

    private static func fill(_ value: Tensor, _ initializer: Initializer, stream: ParameterStream) {
        switch initializer {
        case .constant(let constant): value.fill(constant)
        case .normal(let deviation): stream.normal(into: value, standardDeviation: deviation)
        case .truncatedNormal(let deviation): stream.truncatedNormal(into: value, standardDeviation: deviation)
        case .uniform(let bound): stream.uniform(into: value, bound: bound)
        case .values(let values):
            require(values.count == value.count, "initial values: \(values.count); expected \(value.count)")
            value.copy(from: values, count: values.count)
        case .logUniform(let low, let high):
            drawUniform(into: value, stream) { log(Double(low) + Double(high - low) * $0) }
        case .stepBias(let low, let high, let floor):
            drawUniform(into: value, stream) {
                let step = max(exp(log(Double(low)) + (log(Double(high)) - log(Double(low))) * $0), Double(floor))
                return step + log(-expm1(-step))
            }
        case .shifted(let base, let rows, let shift):
            fill(value, base, stream: stream)
            let width = value.count / value.shape[0]
            for i in rows.lowerBound * width..<rows.upperBound * width { value.pointer[i] += shift }
        case .repeated(let base, let shifts):
            fill(value, base, stream: stream)
            for i in 0..<value.count { value.pointer[i] += shifts[i % shifts.count] }
        }
    }

    /// `transform(u)` of draws `u` on (0, 1).
    private static func drawUniform(
        into value: Tensor, _ stream: ParameterStream, _ transform: (Double) -> Double
    ) {
        stream.uniform(into: value, bound: 0.5)
        for i in 0..<value.count { value.pointer[i] = Float(transform(Double(value.pointer[i]) + 0.5)) }
    }
}

/// One application of a parameter, with a gradient slot of its own.
///
/// Slots are summed in use-site order when the step ends, so a parameter that is shared between
/// stages gets the same bits wherever its uses lie (promise P1).
public final class ParameterUse {
    public unowned let parameter: Parameter
    /// Among the parameter's uses; −1 without a gradient.
    public let index: Int
    private var slot: Tensor?
    private var holdsSum = false

    init(parameter: Parameter, index: Int) {
        self.parameter = parameter
        self.index = index
    }

    public var value: Tensor { parameter.value }
    public var hasGradient: Bool { index >= 0 }
    public var shape: Shape { parameter.shape }

    /// The slot, with `isFresh` true before the first contribution of this step (write, don't add).
    public func writableGradient(_ context: ComputeContext) -> (tensor: Tensor, isFresh: Bool) {
        require(hasGradient, "ParameterUse: '\(parameter.name)' got a gradient where it runs forward only")
        let tensor = slot ?? context.tensor(shape, .gradients)
        slot = tensor
        defer { holdsSum = true }
        return (tensor, !holdsSum)
    }

    /// The sum of this step's contributions; zeros when there was none.
    public func gradient(_ context: ComputeContext) -> Tensor {
        let (tensor, isFresh) = writableGradient(context)
        if isFresh { tensor.fill(0) }
        return tensor
    }

    /// Forgets the sum, keeping the buffer.
    public func resetGradient() { holdsSum = false }
}
