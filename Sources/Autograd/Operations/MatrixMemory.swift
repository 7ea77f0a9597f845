import Kernels
import Tensors

/// Neighbouring columns of a variable `[R, C]`: what a fused projection or convolution made in one piece.
public struct Columns {
    public let variable: Variable
    public let offset: Int

    public init(_ variable: Variable, from offset: Int = 0) {
        self.variable = variable
        self.offset = offset
    }

    var pointer: UnsafePointer<Float> { UnsafePointer(variable.value.pointer + offset) }
}

/// The gradients of several `Columns`: one buffer for each variable that they lie in.
struct ColumnGradients {
    private var buffers: [(variable: Variable, tensor: Tensor)] = []
    private let context: ComputeContext

    /// - Parameter pieces: with their widths; what they leave out of a variable gets gradient 0.
    init(_ pieces: [(columns: Columns, width: Int)], _ context: ComputeContext) {
        self.context = context
        for (columns, _) in pieces where !buffers.contains(where: { $0.variable === columns.variable }) {
            let tensor = context.tensor(columns.variable.shape)
            let covered = pieces.reduce(0) { $0 + ($1.columns.variable === columns.variable ? $1.width : 0) }
            if covered < tensor.width { tensor.fill(0) }
            buffers.append((columns.variable, tensor))
        }
    }

    func pointer(_ columns: Columns) -> UnsafeMutablePointer<Float> {
        buffers.first { $0.variable === columns.variable }!.tensor.pointer + columns.offset
    }

    func accumulate() {
        for (variable, tensor) in buffers { variable.accumulate(tensor, context) }
    }
}

/// State of a matrix memory: `[B, H, K, V]` (or `[B, H, V, K]`), and when normalised `[B, H, K]`, `[B, H]`.
public struct MatrixMemoryState {
    public var state: Variable?, norm: Variable?, maximum: Variable?

    public init(state: Variable? = nil, norm: Variable? = nil, maximum: Variable? = nil) {
        (self.state, self.norm, self.maximum) = (state, norm, maximum)
    }
}

extension Tape {
    /// Matrix memory over a chunk: `S_t = f_t S_{t−1} + i_t k_t (u_t v_t)ᵀ`, `o_t = scale·q_tᵀ S_t (÷ normaliser) + d v_t`.
    ///
    /// Keeps the state before every 64 tokens; scores are recomputed in the backward pass.
    /// - Parameters:
    ///   - query, key, value: `[B·T, Hq·K]`, `[B·T, Hk·K]`, `[B·T, Hv·V]`.
    ///   - logDecay, logInput, valueScale: `log f ≤ 0`, `log i`, `u`, `[B·T, H]`; nil is neutral.
    ///   - skip: `d [H]`.
    ///   - past: state before the chunk; nil parts are zero.
    /// - Returns: output `[B·T, H·V]` and the state after the chunk. arXiv 2405.21060, 2312.06635, 2405.04517.
    public func matrixMemory(
        query: Columns, key: Columns, value: Columns, logDecay: Variable? = nil, logInput: Variable? = nil,
        valueScale: Variable? = nil, skip: ParameterUse? = nil, past: MatrixMemoryState, _ shape: MatrixMemoryShape
    ) -> (output: Variable, state: MatrixMemoryState) {
        let (output, state) = memory(
            query: query, key: key, value: value, logDecay: logDecay, logInput: logInput, valueScale: valueScale,
            skip: skip, past: past, shape)
        return (output!, state)
    }

    /// The state after keys and values that nobody asks about.
    public func matrixMemoryState(
        key: Columns, value: Columns, past: MatrixMemoryState, _ shape: MatrixMemoryShape
    ) -> MatrixMemoryState {
        memory(
            query: nil, key: key, value: value, logDecay: nil, logInput: nil, valueScale: nil, skip: nil, past: past,
            shape
        ).state
    }

    private func memory(
        query: Columns?, key: Columns, value: Columns, logDecay: Variable?, logInput: Variable?, valueScale: Variable?,
        skip: ParameterUse?, past: MatrixMemoryState, _ shape: MatrixMemoryShape
    ) -> (output: Variable?, state: MatrixMemoryState) {
        var shape = shape
        if let query { shape.queryStride = query.variable.value.width }
        shape.keyStride = key.variable.value.width
        shape.valueStride = value.variable.value.width
        let (batch, heads) = (shape.batch, shape.headCount)
        let gates = [logDecay, logInput, valueScale]
        let parents = [query?.variable, key.variable, value.variable] + gates + [past.state, past.norm, past.maximum]
        let needsGradient = isRecording && (skip != nil || parents.contains { $0?.needsGradient == true })

        let y = query.map { _ in context.tensor(Shape(batch * shape.time, heads * shape.valueWidth)) }
        let state = context.tensor(
            shape.isStateTransposed
                ? Shape(batch, heads, shape.valueWidth, shape.keyWidth)
                : Shape(batch, heads, shape.keyWidth, shape.valueWidth))
        let norm = shape.isNormalized ? context.tensor(Shape(batch, heads, shape.keyWidth)) : nil
        let maximum = shape.isExponential ? context.tensor(Shape(batch, heads)) : nil
        let divides = shape.isNormalized && query != nil
        let denominator = divides ? context.tensor(Shape(batch * shape.time, heads)) : nil
        let slope = divides ? context.tensor(Shape(batch * shape.time, heads)) : nil
        let kept = needsGradient ? context.tensor(Shape(shape.keptCount)) : nil

        var inputs = MatrixMemoryKernel.Inputs(query: query?.pointer, key: key.pointer, value: value.pointer)
        inputs.logDecay = logDecay?.value.pointer.constant
        inputs.logInput = logInput?.value.pointer.constant
        inputs.valueScale = valueScale?.value.pointer.constant
        inputs.skip = skip?.value.pointer.constant
        inputs.state = past.state?.value.pointer.constant
        inputs.norm = past.norm?.value.pointer.constant
        inputs.maximum = past.maximum?.value.pointer.constant
        var results = MatrixMemoryKernel.Results(output: y?.pointer)
        (results.denominator, results.slope) = (denominator?.pointer, slope?.pointer)
        (results.state, results.norm, results.maximum) = (state.pointer, norm?.pointer, maximum?.pointer)
        results.kept = kept?.pointer
        MatrixMemoryKernel.forward(inputs, into: results, shape: shape, threads: threads)

        let result = y.map { Variable($0, needsGradient: needsGradient) }
        let next = MatrixMemoryState(
            state: Variable(state, needsGradient: needsGradient),
            norm: norm.map { Variable($0, needsGradient: needsGradient) },
            maximum: maximum.map { Variable($0, needsGradient: needsGradient) })
        context.betweenOperations?()
        guard needsGradient, let kept else { return (result, next) }
        recordRaw {
            let dState = next.state?.takeGradient()
            let dNorm = next.norm?.takeGradient()
            let dMaximum = next.maximum?.takeGradient()
            var dy = result?.takeGradient()
            guard dy != nil || dState != nil || dNorm != nil || dMaximum != nil else { return }
            if dy == nil { dy = y.map { self.context.zeros($0.shape) } }

            let columns = ColumnGradients(
                [
                    query.map { ($0, shape.queryHeadCount * shape.givenKeyWidth) },
                    (key, shape.keyHeadCount * shape.givenKeyWidth), (value, shape.valueHeadCount * shape.valueWidth),
                ].compactMap { $0 }, self.context)
            func buffer(_ variable: Variable?) -> Tensor? { variable.map { self.context.tensor($0.shape) } }
            let (dDecay, dInput, dScale) = (buffer(logDecay), buffer(logInput), buffer(valueScale))
            let (dPast, dPastNorm, dPastMaximum) = (buffer(past.state), buffer(past.norm), buffer(past.maximum))
            let dSkip = skip.map { _ in self.context.tensor(Shape(batch, heads)) }
            var gradients = MatrixMemoryKernel.Gradients(
                dOutput: dy?.pointer.constant, kept: kept.pointer, dQuery: query.map(columns.pointer),
                dKey: columns.pointer(key), dValue: columns.pointer(value))
            gradients.output = y?.pointer.constant
            (gradients.denominator, gradients.slope) = (denominator?.pointer.constant, slope?.pointer.constant)
            (gradients.state, gradients.norm) = (state.pointer.constant, norm?.pointer.constant)
            (gradients.dState, gradients.dNorm) = (dState?.pointer.constant, dNorm?.pointer.constant)
            gradients.dMaximum = dMaximum?.pointer.constant
            (gradients.dLogDecay, gradients.dLogInput) = (dDecay?.pointer, dInput?.pointer)
            (gradients.dValueScale, gradients.dSkip) = (dScale?.pointer, dSkip?.pointer)
            (gradients.dPastState, gradients.dPastNorm) = (dPast?.pointer, dPastNorm?.pointer)
            gradients.dPastMaximum = dPastMaximum?.pointer
            MatrixMemoryKernel.backward(inputs, gradients, shape: shape, threads: self.threads)

            columns.accumulate()
            let others = [
                (logDecay, dDecay), (logInput, dInput), (valueScale, dScale), (past.state, dPast),
                (past.norm, dPastNorm), (past.maximum, dPastMaximum),
            ]
            for (variable, gradient) in others {
                if let gradient { variable?.accumulate(gradient, self.context) }
            }
            if let skip, let dSkip { self.postponeColumnSums(dSkip, into: skip) }
        }
        return (result, next)
    }
}
