import Kernels
import Tensors

/// Records the operations of one unit of work and runs them backwards in two halves.
///
/// `inputGradients` returns what flows to the unit's inputs and postpones the weight gradients;
/// `weightGradients` runs those. Splitting them is what makes I/W schedules possible; running one
/// after the other gives ordinary back-propagation with the same bits.
///
/// Not thread-safe; belongs to the rank's thread.
public final class Tape {
    public let context: ComputeContext
    /// False in evaluation and in a forward pass that will be re-materialised: nothing is kept.
    public let isRecording: Bool

    private var records: [() -> Void] = []
    private var postponed: [() -> Void] = []

    public init(_ context: ComputeContext, isRecording: Bool = true) {
        self.context = context
        self.isRecording = isRecording
        if isRecording { records.reserveCapacity(64) }
    }

    var pool: StoragePool { context.pool }
    var threads: ThreadPool { context.threads }

    /// The result of an operation; it wants a gradient when the tape records and an input or a
    /// parameter does.
    func output(_ value: Tensor, from inputs: Variable?..., hasParameters: Bool = false) -> Variable {
        context.betweenOperations?()
        let needed = isRecording && (hasParameters || inputs.contains { $0?.needsGradient == true })
        return Variable(value, needsGradient: needed)
    }

    /// Adds the backward of the operation that produced `outputs`. It is skipped when no gradient
    /// reached any of them.
    func record(_ output: Variable, _ backward: @escaping (Tensor) -> Void) {
        guard isRecording, output.needsGradient else { return }
        records.append {
            guard let gradient = output.takeGradient() else { return }
            backward(gradient)
        }
    }

    /// As `record(_:_:)` for operations with several outputs, which look at their gradients themselves.
    public func recordRaw(_ backward: @escaping () -> Void) {
        guard isRecording else { return }
        records.append(backward)
    }

    /// Called inside a backward: work that only parameters wait for.
    public func postpone(_ weightGradient: @escaping () -> Void) { postponed.append(weightGradient) }

    /// Runs the recorded operations backwards, from gradients already accumulated in the outputs.
    public func inputGradients() {
        while let backward = records.popLast() {
            backward()
            context.betweenOperations?()
        }
    }

    /// Runs the postponed weight gradients, in the order in which they were postponed.
    public func weightGradients() {
        for work in postponed {
            work()
            context.betweenOperations?()
        }
        postponed.removeAll()
    }
}
