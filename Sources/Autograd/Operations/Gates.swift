import Kernels
import Tensors

/// One input of ``Tape/gates(_:biases:count:width:headCount:)``: `x Wᵀ` of some gates, W dense or block-diagonal.
public struct GateTerm {
    let input: Variable
    let weights: [ParameterUse]
    let layout: BlockLayout
    let firstGate: Int

    /// - Parameters:
    ///   - weights: of the same layout, whose gates follow each other. - firstGate: the first gate of the first weight.
    public init(_ input: Variable, _ weights: [ParameterUse], _ layout: BlockLayout, firstGate: Int = 0) {
        (self.input, self.weights, self.layout, self.firstGate) = (input, weights, layout, firstGate)
    }
}

/// A bias of the first gates, whose pieces lie as the blocks of `layout` (with one input).
public struct GateBias {
    let bias: ParameterUse
    let offset: Int
    let layout: BlockLayout

    /// - Parameter offset: first element in use.
    public init(_ bias: ParameterUse, offset: Int = 0, _ layout: BlockLayout) {
        (self.bias, self.offset, self.layout) = (bias, offset, layout)
    }
}

extension Tape {
    /// Pre-activations of the gates of a recurrent cell, for all steps at once.
    ///
    /// - Parameters:
    ///   - terms: which together make every gate, each gate once.
    ///   - columns: of a row of gates.
    /// - Returns: `[R, columns.stride]`. The cell that takes them may write over them.
    public func gates(_ terms: [GateTerm], biases: [GateBias], _ columns: GateColumns) -> Variable {
        let rows = terms[0].input.value.rows
        let y = context.tensor(Shape(rows, columns.stride))
        let bias = biases.isEmpty ? nil : context.zeros(Shape(columns.stride))
        if let bias {
            for term in biases {
                BlockBias.add(term.bias.value.pointer + term.offset, term.layout, to: bias.pointer, columns)
            }
        }
        let products = terms.map {
            BlockProduct($0.layout, weightCount: $0.weights.count, firstGate: $0.firstGate, into: columns)
        }
        for (term, product) in zip(terms, products) {
            require(
                term.input.value.rows == rows && term.input.value.width == term.layout.inputWidth,
                "gates '\(term.weights[0].parameter.name)': x is \(term.input.shape); expected [\(rows), \(term.layout.inputWidth)]"
            )
            product.multiply(
                term.input.value.pointer, rows: rows, term.weights.map { $0.value.pointer.constant },
                bias: bias?.pointer.constant, into: y.pointer, threads: threads)
        }
        let result = output(y, from: nil, hasParameters: true)
        record(result) { dy in
            for (term, product) in zip(terms, products) where term.input.needsGradient {
                let (dx, isFresh) = term.input.writableGradient(self.context)
                product.inputGradient(
                    dy.pointer, rows: rows, term.weights.map { $0.value.pointer.constant }, accumulate: !isFresh,
                    into: dx.pointer, threads: self.threads)
            }
            self.postpone { [context = self.context, threads = self.threads] in
                for (term, product) in zip(terms, products) {
                    product.weightGradient(
                        dy.pointer, term.input.value.pointer, rows: rows,
                        addingTo: term.weights.map { $0.gradient(context).pointer }, threads: threads)
                }
                guard !biases.isEmpty else { return }
                let sums = context.tensor(Shape(columns.stride))
                Reductions.columnSums(
                    dy.pointer, rows: rows, columns: columns.stride, accumulate: false, into: sums.pointer,
                    threads: threads)
                for term in biases {
                    BlockBias.addGradient(
                        sums.pointer, columns, term.layout, to: term.bias.gradient(context).pointer + term.offset)
                }
            }
        }
        return result
    }
}
