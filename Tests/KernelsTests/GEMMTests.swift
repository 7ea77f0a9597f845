import Kernels
import Testing

/// Reproducible values in [-1, 1).
struct TestValues {
    var state: UInt64

    init(_ seed: UInt64) { state = seed &* 2 &+ 1 }

    mutating func next() -> Float {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Float(Int64(bitPattern: state) >> 40) / Float(1 << 23)
    }

    mutating func array(_ count: Int) -> [Float] { (0..<count).map { _ in next() } }
}

/// One product: sizes, orientation, and the padding of each row.
struct Product: CustomStringConvertible {
    var m: Int, n: Int, k: Int
    var transposeA = false
    var transposeB = false
    var accumulate = false
    var hasBias = false
    var padding = 0

    var description: String {
        "\(m)x\(n)x\(k) \(transposeA ? "T" : "N")\(transposeB ? "T" : "N") accumulate \(accumulate) bias \(hasBias) padding \(padding)"
    }

    var lda: Int { (transposeA ? m : k) + padding }
    var ldb: Int { (transposeB ? k : n) + padding }
    var ldc: Int { n + padding }

    struct Operands {
        var a: [Float], b: [Float], c: [Float], bias: [Float]
    }

    func operands() -> Operands {
        var values = TestValues(UInt64(m * 31 + n * 17 + k))
        return Operands(
            a: values.array((transposeA ? k : m) * lda + 1), b: values.array((transposeB ? n : k) * ldb + 1),
            c: values.array(m * ldc + 1), bias: values.array(n))
    }

    /// The sum in Double and the sum of magnitudes, for an error bound.
    func reference(_ o: Operands, _ i: Int, _ j: Int) -> (value: Double, magnitude: Double) {
        var value = accumulate ? Double(o.c[i * ldc + j]) : hasBias ? Double(o.bias[j]) : 0
        var magnitude = abs(value)
        for p in 0..<k {
            let term =
                Double(o.a[transposeA ? p * lda + i : i * lda + p])
                * Double(o.b[transposeB ? j * ldb + p : p * ldb + j])
            value += term
            magnitude += abs(term)
        }
        return (value, magnitude)
    }

    func native(_ o: Operands, _ instructionSet: InstructionSet, _ threads: ThreadPool) -> [Float] {
        var c = o.c
        o.bias.withUnsafeBufferPointer { bias in
            GEMM.multiply(
                o.a, transposeA: transposeA, lda: lda, o.b, transposeB: transposeB, ldb: ldb, m: m, n: n, k: k,
                accumulate: accumulate, bias: hasBias ? bias.baseAddress : nil, into: &c, ldc: ldc,
                instructionSet: instructionSet, threads: threads)
        }
        return c
    }

    func mismatch(_ c: [Float], _ o: Operands) -> String? {
        for i in 0..<m {
            for j in 0..<n {
                let (value, magnitude) = reference(o, i, j)
                let error = abs(Double(c[i * ldc + j]) - value)
                if !(error <= 2e-6 * magnitude + 1e-12) {
                    return "\(self): [\(i), \(j)] is \(c[i * ldc + j]); expected \(value)"
                }
            }
            for j in n..<ldc where c[i * ldc + j].bitPattern != o.c[i * ldc + j].bitPattern {
                return "\(self): wrote beyond the row at [\(i), \(j)]"
            }
        }
        return nil
    }

    static let awkward: [Product] = {
        var products: [Product] = []
        let sizes = [1, 2, 7, 63, 100]
        for m in sizes {
            for n in sizes {
                for k in sizes {
                    let code = products.count
                    products.append(
                        Product(
                            m: m, n: n, k: k, accumulate: code % 3 == 0, hasBias: code % 3 == 1, padding: code % 2 * 5))
                }
            }
        }
        for (m, n, k) in [
            (257, 100, 257), (100, 257, 1100), (17, 257, 513), (3, 520, 1), (4, 70, 530), (300, 49, 512), (5, 5, 0),
        ] {
            products.append(Product(m: m, n: n, k: k, hasBias: true))
            products.append(Product(m: m, n: n, k: k, accumulate: true, padding: 3))
        }
        return products
    }()
}

let supportedSets = InstructionSet.allCases.filter(\.isSupported)

@Suite struct GEMMTests {
    @Test(arguments: supportedSets)
    func agreesWithDoubleAndNotWithThreadCount(_ instructionSet: InstructionSet) {
        let (one, two, three) = (ThreadPool(threadCount: 1), ThreadPool(threadCount: 2), ThreadPool(threadCount: 3))
        for base in Product.awkward {
            for (transposeA, transposeB) in [(false, false), (false, true), (true, false)] {
                var product = base
                (product.transposeA, product.transposeB) = (transposeA, transposeB)
                let operands = product.operands()
                let c = product.native(operands, instructionSet, one)
                if let mismatch = product.mismatch(c, operands) { Issue.record("\(instructionSet): \(mismatch)") }
                for threads in [two, three] {
                    #expect(c.map(\.bitPattern) == product.native(operands, instructionSet, threads).map(\.bitPattern))
                }
            }
        }
    }

    @Test(arguments: supportedSets)
    func packedOperandGivesTheSameBits(_ instructionSet: InstructionSet) {
        for product in Product.awkward where !product.transposeA {
            for transposeB in [false, true] {
                var product = product
                product.transposeB = transposeB
                let operands = product.operands()
                for threads in [ThreadPool(threadCount: 1), ThreadPool(threadCount: 2)] {
                    let packed = PackedMatrix(k: product.k, n: product.n, instructionSet: instructionSet)
                    packed.pack(operands.b, transposed: transposeB, ld: product.ldb, threads: threads)
                    var c = operands.c
                    operands.bias.withUnsafeBufferPointer { bias in
                        GEMM.multiply(
                            operands.a, lda: product.lda, packed: packed, m: product.m, accumulate: product.accumulate,
                            bias: product.hasBias ? bias.baseAddress : nil, into: &c, ldc: product.ldc, threads: threads
                        )
                    }
                    #expect(c.map(\.bitPattern) == product.native(operands, instructionSet, threads).map(\.bitPattern))
                }
            }
        }
    }

    @Test(arguments: supportedSets)
    func elementDoesNotDependOnItsNeighbours(_ instructionSet: InstructionSet) {
        let threads = ThreadPool(threadCount: 1)
        let (m, n, k) = (37, 101, 700)
        var values = TestValues(5)
        let (a, b) = (values.array(m * k), values.array(k * n))
        var whole = [Float](repeating: 0, count: m * n)
        GEMM.multiply(
            a, transposeA: false, lda: k, b, transposeB: false, ldb: n, m: m, n: n, k: k, accumulate: false, bias: nil,
            into: &whole, ldc: n, instructionSet: instructionSet, threads: threads)
        for rows in [1, 2, 5, 16, 17] {
            for columns in [1, 3, 16, 48, 77] {
                for (i, j) in [(0, 0), (m - rows, n - columns), (3, 11)] {
                    var part = [Float](repeating: 0, count: rows * columns)
                    a.withUnsafeBufferPointer { a in
                        b.withUnsafeBufferPointer { b in
                            GEMM.multiply(
                                a.baseAddress! + i * k, transposeA: false, lda: k, b.baseAddress! + j,
                                transposeB: false, ldb: n,
                                m: rows, n: columns, k: k, accumulate: false, bias: nil, into: &part, ldc: columns,
                                instructionSet: instructionSet, threads: threads)
                        }
                    }
                    for r in 0..<rows {
                        for c in 0..<columns
                        where part[r * columns + c].bitPattern != whole[(i + r) * n + j + c].bitPattern {
                            Issue.record(
                                "\(instructionSet): [\(i + r), \(j + c)] differs in a \(rows)x\(columns) product")
                        }
                    }
                }
            }
        }
    }

    @Test(arguments: supportedSets)
    func notANumberAndInfinityPropagate(_ instructionSet: InstructionSet) {
        for product in [Product(m: 9, n: 50, k: 20), Product(m: 40, n: 70, k: 600, transposeB: true)] {
            var operands = product.operands()
            operands.a[2 * product.lda + 3] = .nan
            operands.a[5 * product.lda + 1] = .infinity
            let c = product.native(operands, instructionSet, ThreadPool(threadCount: 1))
            for j in 0..<product.n {
                #expect(c[2 * product.ldc + j].isNaN)
                #expect(!c[5 * product.ldc + j].isFinite)
                #expect(c[4 * product.ldc + j].isFinite)
            }
        }
    }

    @Test func workerProductGivesTheSameBits() {
        let threads = ThreadPool(threadCount: 2)
        let product = Product(m: 30, n: 90, k: 130, transposeB: true, accumulate: true)
        let operands = product.operands()
        var results = [operands.c, operands.c]
        let (rowSize, isa) = (operands.c.count, KernelVariant.current.instructionSet)
        var flat = results[0] + results[1]
        flat.withUnsafeMutableBufferPointer { buffer in
            nonisolated(unsafe) let base = buffer.baseAddress!
            threads.run(2) { index, worker in
                GEMM.multiplyOnWorker(
                    operands.a, lda: product.lda, operands.b, transposeB: true, ldb: product.ldb, m: product.m,
                    n: product.n,
                    k: product.k, accumulate: true, into: base + index * rowSize, ldc: product.ldc, worker: worker,
                    threads: threads)
            }
        }
        results = [Array(flat[..<rowSize]), Array(flat[rowSize...])]
        let expected = product.native(operands, isa, threads)
        #expect(results[0] == expected && results[1] == expected)
    }

    @Test func peakIsPlausible() {
        let peak = GEMM.measurePeak()
        #expect(peak > 1e8 && peak < 1e13)
    }
}
