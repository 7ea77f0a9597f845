import Kernels
import Tensors

/// A value on a tape, with the gradient that flows back to it.
public final class Variable {
    public let value: Tensor
    /// Whether anything upstream wants the gradient. Constants (tokens' embeddings in evaluation,
    /// detached carries) skip their part of the backward pass.
    public let needsGradient: Bool
    /// `∂loss/∂value`, absent while nothing has flowed back.
    public private(set) var gradient: Tensor?

    public init(_ value: Tensor, needsGradient: Bool = false) {
        self.value = value
        self.needsGradient = needsGradient
    }

    public var shape: Shape { value.shape }

    /// Takes the gradient out, leaving none: its owner may then reuse the storage.
    public func takeGradient() -> Tensor? {
        defer { gradient = nil }
        return gradient
    }

    /// Adds `contribution`, which may stay shared with other holders (no copy when it is the first).
    public func accumulate(_ contribution: Tensor, _ context: ComputeContext) {
        guard needsGradient else { return }
        guard gradient != nil else {
            gradient = contribution.reshaped(shape)
            return
        }
        let sum = writableGradient(context).tensor
        Elementwise.add(contribution.pointer, to: sum.pointer, count: sum.count, threads: context.threads)
    }

    /// A buffer that a kernel may write the gradient to directly.
    ///
    /// - Returns: `isFresh` true means uninitialised: write; false means it already holds a sum: add.
    ///   A buffer shared with a postponed weight gradient is copied first, so the bits of the result
    ///   do not depend on who else holds it.
    public func writableGradient(_ context: ComputeContext) -> (tensor: Tensor, isFresh: Bool) {
        if gradient == nil {
            let fresh = context.tensor(shape)
            gradient = fresh
            return (fresh, true)
        }
        if !gradient!.isUniquelyReferenced() {
            gradient = gradient!.copied(pool: context.pool)
        }
        return (gradient!, false)
    }
}
