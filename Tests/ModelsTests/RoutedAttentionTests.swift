import Autograd
import Glibc
import Kernels
import Models
import Tensors
import TestSupport
import Testing

/// Attention of tokens that are not consecutive, and to keys and values of another pass.
@Suite struct RoutedAttentionTests {
    static let batch = 2, heads = 4, shared = 2, size = 6, length = 11
    /// Of 5 rows each, in sequences of 11; the last of the second sequence fills up.
    static let positions: [Int32] = [0, 2, 3, 7, 10, 1, 4, 5, 9, 9]

    static func geometry(
        time: Int, offset: Int = 0, positions: [Int32]? = nil, table: RotaryTable
    ) -> AttentionGeometry {
        AttentionGeometry(
            batch: batch, time: time, headCount: heads, keyValueHeadCount: shared, headSize: size, window: nil,
            positionOffset: offset, positions: positions, rotary: table)
    }

    // MARK: The definition

    static func rotated(_ x: [Double], positions: [Int], heads: Int, theta: Double = 100, pairs: RotaryPairs)
        -> [Double]
    {
        var y = x
        for (row, position) in positions.enumerated() {
            for head in 0..<heads {
                for i in 0..<size / 2 {
                    let base = (row * heads + head) * size
                    let (a, b) = pairs == .half ? (base + i, base + i + size / 2) : (base + 2 * i, base + 2 * i + 1)
                    let angle = Double(position) * pow(theta, -2 * Double(i) / Double(size))
                    y[a] = x[a] * cos(angle) - x[b] * sin(angle)
                    y[b] = x[b] * cos(angle) + x[a] * sin(angle)
                }
            }
        }
        return y
    }

    /// `[B·T, H·d]`; query row `r` sees the first `visible[r]` of its sequence's `[B, S, Hkv, d]` keys.
    static func attention(_ q: [Double], _ k: [Double], _ v: [Double], visible: [Int], shared: Int = shared) -> [Double]
    {
        let time = visible.count / batch, keys = k.count / (batch * shared * size)
        var o = [Double](repeating: 0, count: q.count)
        for row in visible.indices {
            for head in 0..<heads {
                let at = (row * heads + head) * size
                let keyAt = (0..<visible[row]).map {
                    ((row / time * keys + $0) * shared + head * shared / heads) * size
                }
                let scores = keyAt.map { key in
                    (0..<size).reduce(0.0) { $0 + q[at + $1] * k[key + $1] } / Double(size).squareRoot()
                }
                let weights = scores.map { exp($0) }, sum = weights.reduce(0, +)
                for (key, weight) in zip(keyAt, weights) {
                    for e in 0..<size { o[at + e] += weight / sum * v[key + e] }
                }
            }
        }
        return o
    }

    // MARK: Operations

    @Test(arguments: RotaryPairs.allCases) func rowsAtGivenPositions(pairs: RotaryPairs) {
        let table = RotaryTable(headWidth: Self.size, theta: 100, pairs: pairs)
        let rows = Self.positions.count, positions = Self.positions.map(Int.init)
        OperationTrial([Shape(rows, 24), Shape(rows, 12), Shape(rows, 12)]) { tape, x in
            let result = tape.attention(
                query: x[0], key: x[1], value: x[2], pastKey: nil, pastValue: nil,
                Self.geometry(time: rows / 2, positions: Self.positions, table: table))
            return [result.output, result.keys, result.values]
        }.check { x in
            let q = Self.rotated(x[0], positions: positions, heads: Self.heads, pairs: pairs)
            let k = Self.rotated(x[1], positions: positions, heads: Self.shared, pairs: pairs)
            let visible = (0..<rows).map { $0 % (rows / 2) + 1 }
            return [Self.attention(q, k, x[2], visible: visible), k, x[2]]
        }
    }

    @Test func keysOfAnotherPass() {
        let table = RotaryTable(headWidth: Self.size, theta: 100)
        let rows = Self.positions.count, positions = Self.positions.map(Int.init)
        let keys = Shape(Self.batch, Self.length, Self.shared, Self.size)
        OperationTrial([Shape(rows, 24), keys, keys]) { tape, x in
            [
                tape.attention(
                    query: x[0], sharedKeys: x[1], sharedValues: x[2],
                    Self.geometry(time: rows / 2, positions: Self.positions, table: table))
            ]
        }.check { x in
            let q = Self.rotated(x[0], positions: positions, heads: Self.heads, pairs: .half)
            return [Self.attention(q, x[1], x[2], visible: positions.map { $0 + 1 })]
        }
    }

    @Test func replacedRows() {
        let width = Self.shared * Self.size, rows: [Int32] = [3, 0, -1, 15]
        OperationTrial([Shape(2, 9, Self.shared, Self.size), Shape(4, width)]) { tape, x in
            [tape.replacingRows(x[0], with: x[1], rows: rows)]
        }.check { x in
            var y = x[0]
            for (i, row) in rows.enumerated() where row >= 0 {
                y.replaceSubrange(
                    Int(row) * width..<(Int(row) + 1) * width, with: x[1][i * width..<(i + 1) * width])
            }
            return [y]
        }
    }

    @Test func repeatedHeads() {
        OperationTrial([Shape(5, 12)]) { tape, x in [tape.repeatedHeads(x[0], headSize: 6, count: 3)] }.check { x in
            [(0..<5 * 36).map { x[0][$0 / 36 * 12 + $0 % 36 / 18 * 6 + $0 % 6] }]
        }
    }

    // MARK: Layers

    /// Output and gradients of a layer, `forward` applied to a random input.
    private static func run(
        _ settings: [String: String], threadCount: Int = 1, batch: Int = batch, dropping dropped: Int = 0,
        _ forward: (AttentionMixer, Variable, Pass) -> Variable,
        inspect: ([Float], [String: [Float]]) -> Void = { _, _ in }
    ) throws -> [[Float]] {
        let context = ComputeContext(threadCount: threadCount, pool: StoragePool(fillsWithNaN: true))
        let registry = ParameterRegistry()
        let builder = LayerBuilder(
            registry: registry, prefix: "m", layerIndex: 0, inputWidth: 24,
            defaults: LayerDefaults(initializerRange: 0.4))
        let mixer = try AttentionMixer(
            ConfigurationReader(words: ["head_count": "4"].merging(settings) { $1 }), builder)
        for (i, parameter) in registry.parameters.enumerated() {
            parameter.materialize(seed: 5, context)
            if case .constant = parameter.initializer {
                parameter.value.copy(
                    from: randomFloats(parameter.shape.count, seed: UInt64(i)), count: parameter.shape.count)
            }
        }
        let rows = batch * length
        func part(_ seed: UInt64) -> Tensor {
            let tensor = context.tensor(Shape(rows, 24)), all = randomFloats((dropped * length + rows) * 24, seed: seed)
            tensor.copy(from: Array(all[(dropped * length * 24)...]), count: rows * 24)
            return tensor
        }
        let x = Variable(part(1), needsGradient: true)
        let tape = Tape(context)
        let pass = Pass(
            tape: tape, batch: batch, time: length, samples: (0..<batch).map(UInt32.init), isTraining: true)
        let y = forward(mixer, x, pass)
        inspect(
            x.value.array, Dictionary(uniqueKeysWithValues: registry.parameters.map { ($0.name, $0.value.array) }))
        y.accumulate(part(2), context)
        tape.inputGradients()
        tape.weightGradients()
        let gradients = registry.parameters.flatMap(\.uses).map { $0.gradient(context).array }
        return [y.value.array, x.takeGradient()!.array] + gradients
    }

    private static func ordinary(_ mixer: AttentionMixer, _ x: Variable, _ pass: Pass) -> Variable {
        mixer.forward(x, carry: [], pass).0
    }

    static let settings: [[String: String]] = [
        ["kv_head_count": "2", "rotary": "true"],
        ["kv_head_count": "2", "rotary": "true", "rotary_pairs": "interleaved", "qk_bias": "true"],
        ["rotary": "false"],
    ]

    /// Biases come after the repetition of key heads and before the rotation, the queries' first.
    @Test func biasesOfQueriesAndKeys() throws {
        var outputs: [Float] = [], definition: [Double] = []
        _ = try Self.run(Self.settings[1]) { mixer, x, pass in
            let y = mixer.forward(x, carry: [], pass).0
            outputs = y.value.array
            return y
        } inspect: { x, parameters in
            func values(_ name: String) -> [Double] { parameters[name]!.map(Double.init) }
            func product(_ x: [Double], _ name: String) -> [Double] {
                let w = values("m.self_attn.\(name).weight"), count = w.count / 24
                return (0..<x.count / 24 * count).map { i in
                    (0..<24).reduce(0.0) { $0 + x[i / count * 24 + $1] * w[i % count * 24 + $1] }
                }
            }
            func repeated(_ x: [Double]) -> [Double] {
                (0..<x.count * 2).map { x[$0 / 24 * 12 + $0 % 24 / 12 * 6 + $0 % 6] }
            }
            let x = x.map(Double.init), bias = values("m.self_attn.qk_bias")
            let positions = (0..<x.count / 24).map { $0 % Self.length }
            func turned(_ x: [Double], _ bias: ArraySlice<Double>) -> [Double] {
                let bias = Array(bias), sum = x.indices.map { x[$0] + bias[$0 % 24] }
                return Self.rotated(sum, positions: positions, heads: 4, theta: 10_000, pairs: .interleaved)
            }
            let mixed = Self.attention(
                turned(product(x, "q_proj"), bias[..<24]), turned(repeated(product(x, "k_proj")), bias[24...]),
                repeated(product(x, "v_proj")), visible: positions.map { $0 + 1 }, shared: 4)
            definition = product(mixed, "o_proj")
        }
        assertClose("output", definition.map(Float.init), outputs, ratio: 1e-5)
    }

    /// Positions that are consecutive, given one by one, change no bit.
    @Test(arguments: settings) func consecutivePositions(settings: [String: String]) throws {
        let plain = try Self.run(settings, Self.ordinary)
        let positioned = try Self.run(settings) { mixer, x, pass in
            var pass = pass
            pass.positions = (0..<pass.rows).map { Int32($0 % pass.time) }
            return Self.ordinary(mixer, x, pass)
        }
        for (a, b) in zip(plain, positioned) { assertSameBits("positions", a, b) }
        for (a, b) in zip(plain, try Self.run(settings, threadCount: 2, Self.ordinary)) {
            assertSameBits("two threads", a, b)
        }
    }

    /// Attention to keys that it has itself made in another pass is ordinary attention: the same bits forwards, and
    /// the same gradients, where those of the queries' and the keys' pass add up.
    @Test(arguments: settings, [false, true]) func sharedKeysEqualOwnOnes(
        settings: [String: String], updatesKeys: Bool
    ) throws {
        let plain = try Self.run(settings, Self.ordinary)
        let sharing = try Self.run(settings) { mixer, x, pass in
            let carry = mixer.forward(x, carry: [], pass).1
            return mixer.forward(
                x, sharedKeys: carry["k"]!, sharedValues: carry["v"]!, updatesKeys: updatesKeys, pass)
        }
        assertSameBits("output", plain[0], sharing[0])
        for (a, b) in zip(plain, sharing).dropFirst() { assertClose("gradient", a, b, ratio: 1e-5) }
    }

    /// Rows of a selection, computed alone, are those of all positions.
    @Test func aSelectionHasTheRowsOfAll() throws {
        let settings = Self.settings[0], rows = Self.positions.count
        let at = Self.positions.enumerated().map { Int32($0 / (rows / 2) * Self.length) + $1 }
        var all: [Float] = [], selected: [Float] = []
        _ = try Self.run(settings) { mixer, x, pass in
            let carry = mixer.forward(x, carry: [], pass).1
            let whole = mixer.forward(x, sharedKeys: carry["k"]!, sharedValues: carry["v"]!, pass)
            all = pass.tape.gathered(whole, rows: at).value.array
            var compact = Pass(
                tape: pass.tape, batch: pass.batch, time: rows / 2, samples: pass.samples, isTraining: true)
            compact.positions = Self.positions
            let few = mixer.forward(
                pass.tape.gathered(x, rows: at), sharedKeys: carry["k"]!, sharedValues: carry["v"]!, compact)
            selected = few.value.array
            return whole
        }
        assertSameBits("selection", all, selected)
    }

    /// The rows of one sequence do not depend on the sequences beside it.
    @Test func sequencesAreIndependent() throws {
        let sharing: (AttentionMixer, Variable, Pass) -> Variable = { mixer, x, pass in
            let carry = mixer.forward(x, carry: [], pass).1
            return mixer.forward(x, sharedKeys: carry["k"]!, sharedValues: carry["v"]!, updatesKeys: true, pass)
        }
        let both = try Self.run(Self.settings[1], sharing)
        let second = try Self.run(Self.settings[1], batch: 1, dropping: 1, sharing)
        for i in 0..<2 { assertSameBits("second of two", second[i], Array(both[i].suffix(second[i].count))) }
    }
}
