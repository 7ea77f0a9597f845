import Kernels
import Testing

@Suite struct OpenBLASTests {
    @Test(.enabled(if: OpenBLAS.isAvailable))
    func agreesWithDoubleAndNotWithThreadCount() {
        for base in Product.awkward {
            for (transposeA, transposeB) in [(false, false), (false, true), (true, false)] {
                var product = base
                (product.transposeA, product.transposeB) = (transposeA, transposeB)
                let operands = product.operands()
                let results = [1, 2].map { threadCount in
                    var c = operands.c
                    operands.bias.withUnsafeBufferPointer { bias in
                        GEMM.multiplyWithOpenBLAS(
                            operands.a, transposeA: transposeA, lda: product.lda, operands.b, transposeB: transposeB,
                            ldb: product.ldb, m: product.m, n: product.n, k: product.k, accumulate: product.accumulate,
                            bias: product.hasBias ? bias.baseAddress : nil, into: &c, ldc: product.ldc,
                            threads: ThreadPool(threadCount: threadCount))
                    }
                    return c
                }
                if let mismatch = product.mismatch(results[0], operands) { Issue.record("\(mismatch)") }
                #expect(results[0].map(\.bitPattern) == results[1].map(\.bitPattern))
            }
        }
    }

    @Test func reportSaysWhatWasChosen() {
        let report = OpenBLAS.report
        #expect(OpenBLAS.isAvailable == (report.coreName != nil))
        if report.userCoreType != nil { #expect(report.chosenCoreType == nil) }
        if let chosen = report.chosenCoreType, let core = report.coreName {
            #expect(core == chosen)
            #expect(report.description.contains(core))
        }
    }
}

@Suite struct KernelVariantTests {
    @Test func namesInstructionSetAndBackend() throws {
        let variant = try KernelVariant.resolve()
        #expect(variant == KernelVariant.current)
        #expect(variant.instructionSet.isSupported)
        #expect(variant.description.contains(variant.instructionSet.name))
        #expect(variant.description.contains(variant.backend.rawValue))
    }

    @Test func errorsNameTheRemedy() {
        let unknown = KernelVariantError.unknownValue(
            variable: "SEQTRAIN_ISA", value: "sse", allowed: ["avx2", "portable"])
        #expect(unknown.description == "SEQTRAIN_ISA=sse is not known; expected one of avx2, portable")
        #expect(KernelVariantError.unsupported(.avx512, best: .avx2).description.contains("avx2"))
    }
}
