import Glibc

/// A complex number in double precision, for tables that are computed once per forward pass.
///
/// Gradients of a loss follow one convention: `dz = ∂L/∂Re z + i ∂L/∂Im z`, so that `w = f(z)` holomorphic gives
/// `dz = conj(f′(z)) dw`.
public struct Complex: Equatable, Sendable {
    public var re: Double
    public var im: Double

    public init(_ re: Double, _ im: Double = 0) { (self.re, self.im) = (re, im) }

    /// The pair that starts at `pointer`.
    public init(_ pointer: UnsafePointer<Float>) { self.init(Double(pointer[0]), Double(pointer[1])) }

    public var conjugate: Complex { Complex(re, -im) }
    public var squaredMagnitude: Double { re * re + im * im }

    public static func + (a: Complex, b: Complex) -> Complex { Complex(a.re + b.re, a.im + b.im) }
    public static func - (a: Complex, b: Complex) -> Complex { Complex(a.re - b.re, a.im - b.im) }
    public static func * (a: Complex, b: Complex) -> Complex {
        Complex(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re)
    }
    public static func * (a: Double, b: Complex) -> Complex { Complex(a * b.re, a * b.im) }
    public static func / (a: Complex, b: Complex) -> Complex { (1 / b.squaredMagnitude) * (a * b.conjugate) }
    public static func += (a: inout Complex, b: Complex) { a = a + b }

    public static func exp(_ z: Complex) -> Complex {
        let size = Glibc.exp(z.re)
        return Complex(size * cos(z.im), size * sin(z.im))
    }

    /// Stores the pair at `pointer`.
    public func store(at pointer: UnsafeMutablePointer<Float>) {
        pointer[0] = Float(re)
        pointer[1] = Float(im)
    }

    /// Adds the pair to what is at `pointer`.
    public func add(to pointer: UnsafeMutablePointer<Float>) {
        pointer[0] += Float(re)
        pointer[1] += Float(im)
    }
}

/// The dot product of two complex numbers taken as vectors of the plane: `Re(conj(a) b)`.
public func realProduct(_ a: Complex, _ b: Complex) -> Double { a.re * b.re + a.im * b.im }
