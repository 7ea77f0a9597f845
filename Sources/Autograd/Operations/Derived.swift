import Kernels
import Tensors

/// Tensors computed from parameters, such as discretised state spaces: kept until a parameter changes, so that
/// micro-batches, chunks and generated tokens share them.
public final class DerivedTensors {
    /// Reads the sources, `compute(sources, outputs)`.
    public typealias Compute = (
        _ sources: [UnsafePointer<Float>], _ outputs: [UnsafeMutablePointer<Float>], _ threads: ThreadPool
    ) -> Void
    /// Adds to the gradients of the sources, `chain(sources, gradients of the outputs, gradients of the sources)`.
    public typealias Chain = (
        _ sources: [UnsafePointer<Float>], _ dOutputs: [UnsafePointer<Float>],
        _ dSources: [UnsafeMutablePointer<Float>], _ threads: ThreadPool
    ) -> Void

    let sources: [ParameterUse]
    let chain: Chain
    private let shapes: [Shape]
    private let compute: Compute
    private var values: [Tensor] = []
    private var versions: [Int] = []

    public init(from sources: [ParameterUse], to shapes: [Shape], compute: @escaping Compute, chain: @escaping Chain) {
        self.sources = sources
        self.shapes = shapes
        self.compute = compute
        self.chain = chain
    }

    var sourcePointers: [UnsafePointer<Float>] { sources.map { UnsafePointer($0.value.pointer) } }

    func current(_ context: ComputeContext) -> [Tensor] {
        let wanted = sources.map(\.parameter.version)
        if versions == wanted { return values }
        // Not in place: units of work that are still to go backwards hold the old values.
        values = shapes.map { context.tensor($0, .parameters) }
        compute(sourcePointers, values.map(\.pointer), context.threads)
        versions = wanted
        return values
    }
}

extension Tape {
    /// The tensors of `derived`; their gradients go on to the parameters among the weight gradients, after those of all
    /// operations that read them.
    public func derived(_ derived: DerivedTensors) -> [Variable] {
        let outputs = derived.current(context).map { Variable($0, needsGradient: isRecording) }
        // Recorded before its readers, so this runs, and postpones, after them.
        recordRaw { [context] in
            self.postpone {
                let gradients = outputs.map { $0.takeGradient() ?? context.zeros($0.shape) }
                withExtendedLifetime(gradients) {
                    derived.chain(
                        derived.sourcePointers, gradients.map { UnsafePointer($0.pointer) },
                        derived.sources.map { $0.gradient(context).pointer }, context.threads)
                }
            }
        }
        return outputs
    }

    /// `x Wᵀ` for a weight that is computed from parameters.
    ///
    /// - Parameters:
    ///   - x: `[R, in]`. - weight: `[out, in]`.
    /// - Returns: `[R, out]`.
    public func linear(_ x: Variable, weight: Variable) -> Variable {
        let (rows, input, output) = (x.value.rows, x.value.width, weight.shape[0])
        require(weight.shape[1] == input, "linear: x is \(x.shape), weight \(weight.shape)")
        let y = context.tensor(Shape(rows, output))
        GEMM.multiply(
            x.value.pointer, lda: input, weight.value.pointer, transposeB: true, ldb: input, m: rows, n: output,
            k: input, accumulate: false, into: y.pointer, ldc: output, threads: threads)
        let result = self.output(y, from: x, weight)
        record(result) { [context, threads] dy in
            if x.needsGradient {
                let (dx, isFresh) = x.writableGradient(context)
                GEMM.multiply(
                    dy.pointer, lda: output, weight.value.pointer, ldb: input, m: rows, n: input, k: output,
                    accumulate: !isFresh, into: dx.pointer, ldc: input, threads: threads)
            }
            self.postpone {
                let (dw, isFresh) = weight.writableGradient(context)
                GEMM.multiply(
                    dy.pointer, transposeA: true, lda: output, x.value.pointer, ldb: input, m: output, n: input,
                    k: rows, accumulate: !isFresh, into: dw.pointer, ldc: input, threads: threads)
            }
        }
        return result
    }
}
