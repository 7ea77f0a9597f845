import Kernels
import Tensors

// Adaptive computation time of a Universal Transformer: arXiv 1603.08983, 1807.03819.

/// How the states of the steps make the answer.
public enum HaltingBlend: String, Sendable, CaseIterable {
    /// `w·s + (1 − w)·answer`
    case basic
    /// `answer + w·s`
    case accumulated
}

extension Tape {
    /// One decision of every position whether to go on, from its halting probability `p [R, 1]`.
    ///
    /// A running position stops when the sum of its probabilities would exceed `threshold`: its weight is then the
    /// remainder to 1, before that `p`, and afterwards 0.
    /// - Parameters:
    ///   - state: of the step before; nil before the first.
    ///   - threshold: `1 − ε`.
    /// - Returns: weights `[R, 1]`, and the state `[R, 4]`: sum of probabilities, remainder (0 until it has stopped), steps
    ///   taken, and 1 while it runs.
    public func halting(
        _ p: Variable, state: Variable?, threshold: Float
    ) -> (weight: Variable, state: Variable) {
        let rows = p.value.count
        require(
            state.map { $0.shape == Shape(rows, 4) } ?? true,
            "halting: p \(p.shape), state \(state!.shape); expected [\(rows), 4]")
        let weight = context.tensor(Shape(rows, 1))
        let next: Tensor
        if let state {
            next = state.value.copied(pool: pool)
        } else {
            next = context.zeros(Shape(rows, 4))
            for row in 0..<rows { next.pointer[4 * row + 3] = 1 }
        }
        enum Decision { case go, stop, halted }
        let decisions = (0..<rows).map { row in
            let position = next.pointer + 4 * row
            guard position[3] != 0 else {
                weight.pointer[row] = 0
                return Decision.halted
            }
            position[2] += 1
            if position[0] + p.value.pointer[row] > threshold {
                position[1] = 1 - position[0]
                position[3] = 0
                weight.pointer[row] = position[1]
                return .stop
            }
            weight.pointer[row] = p.value.pointer[row]
            position[0] += p.value.pointer[row]
            return .go
        }
        let weightOut = output(weight, from: p, state)
        let stateOut = Variable(next, needsGradient: weightOut.needsGradient)
        recordRaw { [context] in
            let dWeight = weightOut.takeGradient()
            let dNext = stateOut.takeGradient()
            guard dWeight != nil || dNext != nil else { return }
            let dp = context.zeros(p.shape)
            // Of the sum and the remainder; the other two columns are counts.
            let dState = context.zeros(next.shape)
            for (row, decision) in decisions.enumerated() {
                let weight = dWeight?.pointer[row] ?? 0
                let sum = dNext?.pointer[4 * row] ?? 0, remainder = dNext?.pointer[4 * row + 1] ?? 0
                switch decision {
                case .go:
                    dp.pointer[row] = sum + weight
                    dState.pointer[4 * row] = sum
                case .stop: dState.pointer[4 * row] = sum - remainder - weight
                case .halted:
                    dState.pointer[4 * row] = sum
                    dState.pointer[4 * row + 1] = remainder
                }
            }
            p.accumulate(dp, context)
            state?.accumulate(dState, context)
        }
        return (weightOut, stateOut)
    }

    /// The answer after one more step, `[R, D]`.
    /// - Parameters:
    ///   - answer: so far; nil is zero. - x: the step's state. - weight: `[R, 1]`.
    public func blended(
        _ answer: Variable?, with x: Variable, weight: Variable, _ blend: HaltingBlend
    ) -> Variable {
        let (rows, width) = (x.value.rows, x.value.width)
        require(
            weight.value.count == rows && answer.map { $0.shape == x.shape } ?? true,
            "blended: x \(x.shape), weight \(weight.shape), answer \(answer.map { "\($0.shape)" } ?? "none")")
        let y = context.tensor(x.shape)
        /// The factor of the answer so far.
        func kept(_ row: Int) -> Float { blend == .basic ? 1 - weight.value.pointer[row] : 1 }
        for row in 0..<rows {
            let (at, w) = (row * width, weight.value.pointer[row])
            if let answer {
                Elementwise.scale(
                    answer.value.pointer + at, by: kept(row), into: y.pointer + at, count: width, threads: threads)
                Elementwise.axpy(w, x.value.pointer + at, to: y.pointer + at, count: width, threads: threads)
            } else {
                Elementwise.scale(x.value.pointer + at, by: w, into: y.pointer + at, count: width, threads: threads)
            }
        }
        let result = output(y, from: answer, x, weight)
        record(result) { [context, threads] dy in
            let dx = context.tensor(x.shape)
            let dAnswer = answer == nil ? nil : context.tensor(x.shape)
            let dWeight = context.tensor(weight.shape)
            for row in 0..<rows {
                let at = row * width, gradient = dy.pointer + at
                Elementwise.scale(
                    gradient, by: weight.value.pointer[row], into: dx.pointer + at, count: width, threads: threads)
                var slope = Reductions.dot(gradient, x.value.pointer + at, count: width, threads: threads)
                if let answer, let dAnswer {
                    Elementwise.scale(
                        gradient, by: kept(row), into: dAnswer.pointer + at, count: width, threads: threads)
                    if blend == .basic {
                        slope -= Reductions.dot(gradient, answer.value.pointer + at, count: width, threads: threads)
                    }
                }
                dWeight.pointer[row] = Float(slope)
            }
            x.accumulate(dx, context)
            if let dAnswer { answer?.accumulate(dAnswer, context) }
            weight.accumulate(dWeight, context)
        }
        return result
    }

    /// The ponder cost, `mean(steps + remainder)` over the positions of a final `state [R, 4]`. When the tape runs backwards,
    /// `scale` times its gradient goes to the remainders; steps have none.
    public func ponderCost(_ state: Variable, scale: Float) -> Double {
        let rows = state.value.rows
        let sum = (0..<rows).reduce(0.0) {
            $0 + Double(state.value.pointer[4 * $1 + 2]) + Double(state.value.pointer[4 * $1 + 1])
        }
        if state.needsGradient {
            recordRaw { [context] in
                let dState = context.zeros(state.shape)
                for row in 0..<rows { dState.pointer[4 * row + 1] = scale / Float(rows) }
                state.accumulate(dState, context)
            }
        }
        return sum / Double(rows)
    }
}
