import Kernels
import Tensors

/// One input of ``Tape/gates(_:biases:width:)``: `x Wᵀ` of some gates, `W` dense or block-diagonal.
public struct GateTerm {
    let input: Variable
    let weight: ParameterUse
    let layout: BlockLayout
    let firstGate: Int

    /// - Parameters:
    ///   - input: `[R, N·I]`. - weight: laid out as `layout` says. - firstGate: the gate its first gate is.
    public init(_ input: Variable, _ weight: ParameterUse, _ layout: BlockLayout, firstGate: Int = 0) {
        (self.input, self.weight, self.layout, self.firstGate) = (input, weight, layout, firstGate)
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
    ///   - width: units of a gate, over all heads.
    /// - Returns: `[R, G·width]`, gate by gate. The cell that takes them may write over them.
    public func gates(_ terms: [GateTerm], biases: [GateBias], width: Int) -> Variable {
        let rows = terms[0].input.value.rows
        let gateCount = terms.reduce(0) { $0 + $1.layout.gateCount }
        let stride = gateCount * width
        let y = context.tensor(Shape(rows, stride))
        let bias = biases.isEmpty ? nil : context.zeros(Shape(stride))
        if let bias {
            for term in biases {
                BlockDiagonal.addBias(term.bias.value.pointer + term.offset, term.layout, to: bias.pointer)
            }
        }
        for term in terms {
            let layout = term.layout
            require(
                term.input.value.rows == rows && term.input.value.width == layout.headCount * layout.inputCount
                    && layout.headCount * layout.outputCount == width,
                "gates '\(term.weight.parameter.name)': x is \(term.input.shape); expected \(rows) rows of \(layout.headCount) × \(layout.inputCount) for gates of \(width)"
            )
            let column = term.firstGate * width
            BlockDiagonal.multiply(
                term.input.value.pointer, rows: rows, term.weight.value.pointer, layout,
                bias: bias.map { UnsafePointer($0.pointer + column) }, into: y.pointer + column, yStride: stride,
                threads: threads)
        }
        let result = output(y, from: nil, hasParameters: true)
        record(result) { dy in
            for term in terms where term.input.needsGradient {
                let (dx, isFresh) = term.input.writableGradient(self.context)
                BlockDiagonal.inputGradient(
                    dy.pointer + term.firstGate * width, dyStride: stride, rows: rows, term.weight.value.pointer,
                    term.layout, accumulate: !isFresh, into: dx.pointer, threads: self.threads)
            }
            self.postpone { [context = self.context, threads = self.threads] in
                for term in terms {
                    let (dw, isFresh) = term.weight.writableGradient(context)
                    BlockDiagonal.weightGradient(
                        dy.pointer + term.firstGate * width, dyStride: stride, term.input.value.pointer, rows: rows,
                        term.layout, accumulate: !isFresh, into: dw.pointer, threads: threads)
                }
                guard !biases.isEmpty else { return }
                let sums = context.tensor(Shape(stride))
                Reductions.columnSums(
                    dy.pointer, rows: rows, columns: stride, accumulate: false, into: sums.pointer, threads: threads)
                for term in biases {
                    BlockDiagonal.addBiasGradient(
                        sums.pointer, term.layout, to: term.bias.gradient(context).pointer + term.offset)
                }
            }
        }
        return result
    }
}
