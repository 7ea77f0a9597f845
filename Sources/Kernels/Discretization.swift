/// From the continuous state space `x′ = A x + u` of one pole `A` to steps of length `Δ`: `x ← a x + b u`.
public enum Discretization: String, CaseIterable, Sendable {
    /// Input constant during a step: `a = e^{ΔA}`, `b = (a − 1)/A`.
    case zeroOrderHold = "zoh"
    /// Trapezoidal rule: `a = (1 + ΔA/2)/(1 − ΔA/2)`, `b = Δ/(1 − ΔA/2)`.
    case bilinear

    /// Where the quotients of the zero-order hold cancel, their series take over (relative error 1e-13).
    private static let seriesLimit = 1e-3

    public func callAsFunction(pole: Complex, step: Double) -> (a: Complex, b: Complex) {
        let z = step * pole
        switch self {
        case .zeroOrderHold:
            let a = Complex.exp(z)
            if z.squaredMagnitude < Self.seriesLimit * Self.seriesLimit {
                return (a, step * (Complex(1) + 0.5 * z + (1.0 / 6) * (z * z) + (1.0 / 24) * (z * z * z)))
            }
            return (a, (a - Complex(1)) / pole)
        case .bilinear:
            let inverse = Complex(1) / (Complex(1) - 0.5 * z)
            return ((Complex(1) + 0.5 * z) * inverse, step * inverse)
        }
    }

    /// Gradients of pole and step from those of `a` and `b`.
    public func gradient(pole: Complex, step: Double, da: Complex, db: Complex) -> (pole: Complex, step: Double) {
        let z = step * pole
        switch self {
        case .zeroOrderHold:
            let a = Complex.exp(z)
            let slope: Complex
            if z.squaredMagnitude < Self.seriesLimit * Self.seriesLimit {
                slope = step * step * (Complex(0.5) + (1.0 / 3) * z + (1.0 / 8) * (z * z))
            } else {
                slope = (step * a - (a - Complex(1)) / pole) / pole
            }
            return (
                (step * a).conjugate * da + slope.conjugate * db, realProduct(pole * a, da) + realProduct(a, db)
            )
        case .bilinear:
            let inverse = Complex(1) / (Complex(1) - 0.5 * z)
            let square = inverse * inverse
            return (
                (step * square).conjugate * da + (0.5 * step * step * square).conjugate * db,
                realProduct(pole * square, da) + realProduct(square, db)
            )
        }
    }
}
