import CKernels

/// How a diagonal recurrence is solved for all steps at once (arXiv 2510.21450, section 3): Newton's method on
/// `s_t = f(s_{t-1}, u_t)`, from `f(0, u_t)`, each iteration a linear recurrence whose segments run in parallel.
///
/// One core gains nothing by it: an iteration costs more than the pass over time that it replaces. It shortens the path where
/// many threads have few sequences.
public struct NewtonSolver: Sendable {
    /// Iterations at most; `k` of them make the first `k` steps exact.
    public let iterationLimit: Int
    /// Stop when no residual is larger.
    public let tolerance: Float
    /// Run in order after all when a residual larger than this is left.
    public let fallbackTolerance: Float

    public init(iterationLimit: Int, tolerance: Float, fallbackTolerance: Float) {
        require(iterationLimit >= 1, "NewtonSolver: \(iterationLimit) iterations; expected at least 1")
        (self.iterationLimit, self.tolerance, self.fallbackTolerance) = (iterationLimit, tolerance, fallbackTolerance)
    }
}

extension DiagonalCells {
    /// Steps of a segment; fixed, so that sums do not depend on threads.
    private static let segmentSteps = 64

    /// As `gru(gates:a:y:h:)`, to within the solver's tolerance.
    ///
    /// - Returns: whether Newton's method got there; if not, the steps were run in order.
    @discardableResult
    public func gru(
        solvedBy newton: NewtonSolver, gates: Destination, a: Source, y: Destination, h: Destination
    ) -> Bool {
        let isSolved = solve(newton, states: [h], guesses: [y]) { at, steps, before, guess, delta, product, _ in
            ck_diagonal_gru_newton(
                gates + 3 * at, a, guess[0], before?[0], delta, product, steps, channels, channels)
        } run: { at, steps, state, output in
            ck_diagonal_gru(gates + 3 * at, a, output[0], state[0], steps, channels, channels)
        }
        if !isSolved { gru(gates: gates, a: a, y: y, h: h) }
        return isSolved
    }

    /// As `lstm(gates:a:peepholes:cells:y:h:c:)`, to within the solver's tolerance.
    ///
    /// - Returns: whether Newton's method got there; if not, the steps were run in order.
    @discardableResult
    public func lstm(
        solvedBy newton: NewtonSolver, gates: Destination, a: Source, peepholes: Source, cells: Destination,
        y: Destination, h: Destination, c: Destination
    ) -> Bool {
        let isSolved = solve(newton, states: [c, h], guesses: [cells, y]) {
            at, steps, before, guess, delta, product, plane in
            ck_diagonal_lstm_newton(
                gates + 3 * at, a, peepholes, guess[0], guess[1], before?[0], before?[1], delta, product, plane, steps,
                channels, channels)
        } run: { at, steps, state, output in
            ck_diagonal_lstm(
                gates + 3 * at, a, peepholes, output[0], output[1], state[1], state[0], steps, channels, channels)
        }
        if !isSolved { lstm(gates: gates, a: a, peepholes: peepholes, cells: cells, y: y, h: h, c: c) }
        return isSolved
    }

    /// Newton's method, then each segment once in order from the state that it found before it, which also activates the gates.
    ///
    /// - Parameters:
    ///   - states: of each component `[B, C]`, first to last as for the cells. - guesses: `[B, T, C]` each, written.
    ///   - linearize: the C loop over `steps` positions from element `at` of `[B, T, C]` on; components of `delta` and of
    ///     `product`, row by row, are `plane` floats apart; without `before` that is zero. Returns the largest residual.
    ///   - run: the cell over `steps` positions, from and to `state`, into `output`.
    /// - Returns: false, with gates and states as they were, when a residual above the fall-back is left.
    private func solve(
        _ newton: NewtonSolver, states: [Destination], guesses: [Destination],
        linearize: (
            _ at: Int, _ steps: Int, _ before: [Source]?, _ guess: [Source], _ delta: Destination,
            _ product: Destination, _ plane: Int
        ) -> Float,
        run: (_ at: Int, _ steps: Int, _ state: [Destination], _ output: [Destination]) -> Void
    ) -> Bool {
        let components = states.indices
        let (count, plane) = (states.count, batch * time * channels)
        let segments = (time + DiagonalCells.segmentSteps - 1) / DiagonalCells.segmentSteps
        let boundaryFloats = batch * segments * count * channels
        let delta = threads.scratch(
            worker: 0, floats: (count + count * count) * plane + boundaryFloats + channels + batch * segments)
        let product = delta + count * plane
        let boundaries = product + count * count * plane
        let zeros = boundaries + boundaryFloats
        let residuals = zeros + channels
        zeros.update(repeating: 0, count: channels)

        func place(_ task: Int) -> (row: Int, segment: Int, at: Int, steps: Int) {
            let (row, segment) = (task / segments, task % segments)
            let first = segment * DiagonalCells.segmentSteps
            return (row, segment, (row * time + first) * channels, min(DiagonalCells.segmentSteps, time - first))
        }
        func before(_ place: (row: Int, segment: Int, at: Int, steps: Int)) -> [Source] {
            components.map {
                Source(place.segment == 0 ? states[$0] + place.row * channels : guesses[$0] + place.at - channels)
            }
        }
        /// The correction at the end of the segment before, `[C]` of a component.
        func boundary(_ task: Int, _ component: Int) -> Destination {
            boundaries + (task * count + component) * channels
        }
        /// `x += Π(at) boundary`, the effect of a segment's boundary at one of its positions.
        func addBoundary(_ task: Int, at: Int, component: Int, to x: Destination) {
            for other in components {
                ck_multiply_add(
                    x, product + (component * count + other) * plane + at, boundary(task, other), channels)
            }
        }

        threads.run(batch * time) { position, _ in
            let at = position * channels
            _ = linearize(
                at, 1, nil, [Source](repeating: zeros, count: count), delta + at, product + at, plane)
            for p in components { (guesses[p] + at).update(from: delta + p * plane + at, count: channels) }
        }
        for iteration in 0...newton.iterationLimit {
            threads.run(batch * segments) { task, _ in
                let place = place(task)
                residuals[task] = linearize(
                    place.at, place.steps, before(place), guesses.map { Source($0 + place.at) }, delta + place.at,
                    product + place.at, plane)
            }
            var residual: Float = 0
            for task in 0..<batch * segments where !(residuals[task] <= residual) { residual = residuals[task] }
            if residual <= newton.tolerance { break }
            if iteration == newton.iterationLimit {
                if residual <= newton.fallbackTolerance { break }
                return false
            }
            threads.run(batch) { row, _ in
                for segment in 1..<max(segments, 1) {
                    let task = row * segments + segment
                    let end = place(task).at - channels
                    for p in components {
                        boundary(task, p).update(from: delta + p * plane + end, count: channels)
                        if segment > 1 { addBoundary(task - 1, at: end, component: p, to: boundary(task, p)) }
                    }
                }
            }
            threads.run(batch * segments) { task, _ in
                let place = place(task)
                for at in stride(from: place.at, to: place.at + place.steps * channels, by: channels) {
                    for p in components {
                        ck_add(guesses[p] + at, guesses[p] + at, delta + p * plane + at, channels)
                        if place.segment > 0 { addBoundary(task, at: at, component: p, to: guesses[p] + at) }
                    }
                }
            }
        }
        threads.run(batch * segments) { task, _ in
            let place = place(task)
            let start = before(place)
            for p in components { boundary(task, p).update(from: start[p], count: channels) }
            run(
                place.at, place.steps, components.map { boundary(task, $0) },
                components.map { delta + $0 * plane + place.at })
        }
        for p in components {
            guesses[p].update(from: delta + p * plane, count: plane)
            for row in 0..<batch {
                (states[p] + row * channels).update(
                    from: guesses[p] + ((row + 1) * time - 1) * channels, count: channels)
            }
        }
        return true
    }
}
