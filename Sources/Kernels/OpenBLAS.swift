import COpenBLAS
import Glibc

/// The optional OpenBLAS library: an alternative backend of ``GEMM``, and a yardstick for the native one.
///
/// OpenBLAS picks its kernels while it loads, and versions older than the CPU pick far too low. It is therefore loaded on
/// first use, with `OPENBLAS_CORETYPE` set from the CPU's instruction set unless the user has set that variable.
public enum OpenBLAS {
    /// What was done when the library was loaded.
    public struct Report: Sendable, CustomStringConvertible {
        /// Kernels in use, as the library names them; nil when the library is not installed.
        public let coreName: String?
        /// Value this process gave to `OPENBLAS_CORETYPE`; nil when it was left alone.
        public let chosenCoreType: String?
        /// Value the user gave to `OPENBLAS_CORETYPE`; it always wins.
        public let userCoreType: String?

        public var description: String {
            guard let coreName else { return "OpenBLAS: not installed" }
            if let userCoreType {
                return "OpenBLAS: \(coreName) kernels (OPENBLAS_CORETYPE=\(userCoreType) set by the user)"
            }
            guard let chosenCoreType else { return "OpenBLAS: \(coreName) kernels (its own choice)" }
            return
                "OpenBLAS: \(coreName) kernels (OPENBLAS_CORETYPE=\(chosenCoreType) set from the CPU's instruction set)"
        }
    }

    /// Loads the library if that has not happened yet.
    public static let report: Report = {
        let user = getenv("OPENBLAS_CORETYPE").map { String(cString: $0) }
        let chosen = user == nil ? coreTypeOfThisCPU : nil
        guard cob_load(chosen) == 1, let name = cob_core_name() else {
            return Report(coreName: nil, chosenCoreType: nil, userCoreType: user)
        }
        return Report(coreName: String(cString: name), chosenCoreType: chosen, userCoreType: user)
    }()

    /// True when the library is installed and loaded.
    public static var isAvailable: Bool { report.coreName != nil }

    /// `C[m, n] = op(A) op(B) (+ C)`, single-threaded, row-major. The library must be available.
    package static func multiply(
        _ a: UnsafePointer<Float>, transposeA: Bool, lda: Int, _ b: UnsafePointer<Float>, transposeB: Bool, ldb: Int,
        m: Int, n: Int, k: Int, accumulate: Bool, into c: UnsafeMutablePointer<Float>, ldc: Int
    ) {
        cob_sgemm(
            transposeA ? 1 : 0, transposeB ? 1 : 0, Int32(m), Int32(n), Int32(k), a, Int32(lda), b, Int32(ldb),
            accumulate ? 1 : 0, c, Int32(ldc))
    }

    private static var coreTypeOfThisCPU: String? {
        if InstructionSet.avx512.isSupported { return "SkylakeX" }
        if InstructionSet.avx2.isSupported { return "Haswell" }
        return nil
    }
}
