import Kernels
import Tensors

extension Tape {
    /// Rows of `weight [V, D]` picked by `ids [R]`: `[R, D]`. The scatter-add of the backward pass
    /// runs in row order.
    public func embedding(_ ids: UnsafePointer<Int32>, rows: Int, weight: ParameterUse) -> Variable {
        let width = weight.shape[1]
        let y = context.tensor(Shape(rows, width))
        let vocabulary = weight.shape[0]
        Embedding.gather(
            weight.value.pointer, vocabulary: vocabulary, indices: ids, into: y.pointer, rows: rows, width: width,
            threads: threads)
        let result = output(y, hasParameters: true)
        guard isRecording else { return result }
        let kept = Array(UnsafeBufferPointer(start: ids, count: rows))
        record(result) { dy in
            self.postpone { [context = self.context, threads = self.threads] in
                let table = weight.gradient(context)
                kept.withUnsafeBufferPointer {
                    Embedding.scatterAdd(
                        dy.pointer, indices: $0.baseAddress!, to: table.pointer, vocabulary: vocabulary, rows: rows,
                        width: width, threads: threads)
                }
            }
        }
        return result
    }

    /// `x[b, t] + weight[positionOffset + t]` for `x [B·T, D]`.
    public func addPositions(_ x: Variable, time: Int, positionOffset: Int, weight: ParameterUse) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        require(
            positionOffset + time <= weight.shape[0],
            "positions \(positionOffset)..<\(positionOffset + time) exceed max_positions \(weight.shape[0])")
        let y = context.tensor(x.shape)
        let table = weight.value.pointer + positionOffset * width
        for first in stride(from: 0, to: rows, by: time) {
            Elementwise.add(
                x.value.pointer + first * width, table, into: y.pointer + first * width, count: time * width,
                threads: threads)
        }
        let result = output(y, from: x, hasParameters: true)
        record(result) { dy in
            x.accumulate(dy, self.context)
            self.postpone { [context = self.context, threads = self.threads] in
                let sum = weight.gradient(context).pointer + positionOffset * width
                for first in stride(from: 0, to: rows, by: time) {
                    Elementwise.add(dy.pointer + first * width, to: sum, count: time * width, threads: threads)
                }
            }
        }
        return result
    }
}
