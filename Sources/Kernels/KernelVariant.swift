import CKernels
import Glibc

/// Instruction sets that the kernels are compiled for; the case is chosen at run time.
public enum InstructionSet: Int32, Sendable, CaseIterable {
    case portable = 0
    case avx2 = 1
    case avx512 = 2

    /// The name that `SEQTRAIN_ISA` takes.
    public var name: String { String(describing: self) }

    /// True when this CPU and its operating system can run the variant.
    public var isSupported: Bool { ck_isa_supported(rawValue) == 1 }

    /// The widest supported variant.
    public static var best: InstructionSet { allCases.last { $0.isSupported } ?? .portable }
}

/// Which kernels this process runs. Results are bitwise equal only between processes with equal variants, so ranks log
/// and compare ``description`` before the first step.
public struct KernelVariant: Sendable, Equatable, CustomStringConvertible {
    /// Where matrix products are computed.
    public enum Backend: String, Sendable, CaseIterable {
        case native
        case openblas
    }

    public let instructionSet: InstructionSet
    public let backend: Backend

    public var description: String {
        let gemm = backend == .native ? "native" : "openblas/\(OpenBLAS.report.coreName ?? "missing")"
        return "kernels \(instructionSet.name), gemm \(gemm)"
    }

    /// The variant of this process: the best one the CPU supports, unless `SEQTRAIN_ISA` (`avx512`, `avx2`, `portable`) or
    /// `SEQTRAIN_GEMM` (`native`, `openblas`) say otherwise. Stops the program if they ask for the impossible;
    /// ``resolve()`` reports the same as an error.
    public static let current: KernelVariant = {
        do { return try resolve() } catch { fatalError("KernelVariant: \(error)") }
    }()

    /// Reads the environment and the CPU.
    /// - Throws: ``KernelVariantError``.
    public static func resolve() throws(KernelVariantError) -> KernelVariant {
        var instructionSet = InstructionSet.best
        if let asked = environment("SEQTRAIN_ISA") {
            guard let named = InstructionSet.allCases.first(where: { $0.name == asked }) else {
                throw .unknownValue(
                    variable: "SEQTRAIN_ISA", value: asked, allowed: InstructionSet.allCases.map(\.name))
            }
            guard named.isSupported else { throw .unsupported(named, best: instructionSet) }
            instructionSet = named
        }
        var backend = Backend.native
        if let asked = environment("SEQTRAIN_GEMM") {
            guard let named = Backend(rawValue: asked) else {
                throw .unknownValue(variable: "SEQTRAIN_GEMM", value: asked, allowed: Backend.allCases.map(\.rawValue))
            }
            if named == .openblas && !OpenBLAS.isAvailable { throw .openBLASMissing }
            backend = named
        }
        return KernelVariant(instructionSet: instructionSet, backend: backend)
    }

    private static func environment(_ name: String) -> String? {
        guard let value = getenv(name) else { return nil }
        return value.pointee == 0 ? nil : String(cString: value)
    }
}

/// Why the kernels asked for in the environment cannot be had.
public enum KernelVariantError: Error, CustomStringConvertible, Equatable {
    case unknownValue(variable: String, value: String, allowed: [String])
    case unsupported(InstructionSet, best: InstructionSet)
    case openBLASMissing

    public var description: String {
        switch self {
        case .unknownValue(let variable, let value, let allowed):
            "\(variable)=\(value) is not known; expected one of \(allowed.joined(separator: ", "))"
        case .unsupported(let asked, let best):
            "SEQTRAIN_ISA=\(asked.name) needs instructions this CPU lacks; the best it supports is \(best.name)"
        case .openBLASMissing:
            "SEQTRAIN_GEMM=openblas, but libopenblas.so.0 was not found; install it or unset the variable"
        }
    }
}
