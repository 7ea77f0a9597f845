import Glibc
import Kernels
import Testing

@Suite struct HiPPOTests {
    /// Frequencies and projections of size 8 as computed by LAPACK from the matrix itself.
    @Test func spectrumOfSizeEight() {
        let hippo = HiPPO.legS(size: 8)
        for (got, expected) in zip(hippo.frequencies, [-19.857, -5.354, -1.958, -0.4275]) {
            #expect(abs(got - expected) < 1e-3)
        }
        for (got, expected) in zip(hippo.projections, [3.6456, 1.3038, 0.8308, 0.5653]) {
            #expect(abs(got - expected) < 1e-4)
        }
    }

    /// The eigenvalues of diag(Λ) − P P* are those of the triangular matrix, −1 … −N: they are the zeros of
    /// `1 − Σ |P_n|² / (Λ_n − z)` over the whole spectrum.
    @Test(arguments: [2, 16, 64]) func eigenvaluesAreThoseOfTheMatrix(size: Int) {
        let hippo = HiPPO.legS(size: size)
        for eigenvalue in [1, 2, size] {
            var sum = Complex(1)
            for (frequency, projection) in zip(hippo.frequencies, hippo.projections) {
                for sign in [-1.0, 1.0] {
                    let pole = Complex(-0.5, sign * frequency)
                    sum = sum - Complex(projection * projection) / (pole - Complex(-Double(eigenvalue)))
                }
            }
            #expect(sum.squaredMagnitude.squareRoot() < 1e-9)
        }
    }

    /// Gradients against central differences, on both sides of where the series takes over.
    @Test(arguments: Discretization.allCases, [1e-5, 9.9e-4, 1.01e-3, 0.3])
    func discretizationGradients(_ discretization: Discretization, step: Double) {
        let pole = Complex(-0.6, 0.8), (da, db) = (Complex(0.3, -0.7), Complex(1.1, 0.4))
        func loss(_ pole: Complex, _ step: Double) -> Double {
            let (a, b) = discretization(pole: pole, step: step)
            return realProduct(da, a) + realProduct(db, b)
        }
        let got = discretization.gradient(pole: pole, step: step, da: da, db: db)
        let h = 1e-4
        let re = (loss(pole + Complex(h), step) - loss(pole - Complex(h), step)) / (2 * h)
        let im = (loss(pole + Complex(0, h), step) - loss(pole - Complex(0, h), step)) / (2 * h)
        let slope = (loss(pole, step * (1 + h)) - loss(pole, step * (1 - h))) / (2 * h * step)
        #expect(abs(got.pole.re - re) < 1e-6 * max(step, abs(re)))
        #expect(abs(got.pole.im - im) < 1e-6 * max(step, abs(im)))
        #expect(abs(got.step - slope) < 1e-6 * abs(slope))
    }
}
