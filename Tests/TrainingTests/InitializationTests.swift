import Autograd
import Communication
import Foundation
import Kernels
import Models
import Pipeline
import Tensors
import TestSupport
import Testing
import Training

/// Recursive models that start from a full-depth one.
@Suite struct InitializationTests {
    private static let block = "{ mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 20 }"

    /// Six layers, with weights large enough to show in the logits.
    private static func plain(_ layers: Int) -> String {
        """
        vocabulary_size: 29
        width: 12
        initializer_range: 0.3
        layers:
          - \(block), repeat: \(layers) }
        """
    }

    /// A block of two in two recursions, between two plain ones.
    private static func recursive(_ settings: String, layers: Int = 2, isMiddle: Bool = true) -> String {
        let edge = isMiddle ? "  - \(block) }\n" : ""
        return """
            vocabulary_size: 29
            width: 12
            initializer_range: 0.3
            layers:
            \(edge)  - recursion: { \(settings) }
                layers:
                  - \(block), repeat: \(layers) }
            \(edge)
            """
    }

    // MARK: Which layers become which

    @Test func stepwiseRoundsHalvesToEven() {
        func sources(_ inner: ClosedRange<Int>, _ layerCount: Int, _ count: Int) -> [Int] {
            let conversion = DepthConversion(inner: inner, layerCount: layerCount, count: count, sharing: .cycle)
            return (0..<layerCount).flatMap { conversion.sources($0, .stepwise, seed: 1) }
        }
        #expect(sources(0...17, 9, 2) == [0, 2, 4, 6, 8, 11, 13, 15, 17])
        // From 1: 1, 2.5, 4, with the half going to the even neighbour of the layer's own number.
        #expect(sources(1...4, 3, 2) == [1, 2, 4])
        #expect(sources(3...8, 1, 6) == [3])
    }

    @Test func otherMethods() {
        func sources(_ method: DepthConversion.Method, _ sharing: RecursionSharing, seed: UInt64 = 1) -> [[Int]] {
            let conversion = DepthConversion(inner: 1...6, layerCount: 2, count: 3, sharing: sharing)
            return (0..<2).map { conversion.sources($0, method, seed: seed) }
        }
        #expect(sources(.average, .cycle) == [[1, 3, 5], [2, 4, 6]])
        #expect(sources(.average, .sequence) == [[1, 2, 3], [4, 5, 6]])
        #expect(sources(.lower, .cycle) == [[1], [2]])
        #expect(sources(.upper, .cycle) == [[5], [6]])
        let drawn = (1...40).map { sources(.random, .cycle, seed: $0).flatMap { $0 } }
        #expect(drawn.allSatisfy { $0[0] < $0[1] && (1...6).contains($0[0]) && (1...6).contains($0[1]) })
        #expect(Set(drawn).count > 10)
        // A depth that does not divide: an even grid of the four applications over five layers.
        let uneven = DepthConversion(inner: 0...4, layerCount: 2, count: 2, sharing: .cycle)
        #expect((0..<4).map(uneven.counterpart) == [0, 1, 3, 4])
    }

    // MARK: Weights

    /// Parameters of a model of six layers, in a file of Hugging Face's layout.
    private static func withCheckpoint<Result>(
        _ model: String = plain(6), dropping dropped: String? = nil, adding extra: [String: [Float]] = [:],
        _ body: (String) throws -> Result
    ) throws -> Result {
        try withTemporaryDirectory { directory in
            _ = try InProcessWorld.run(size: 1) { communicator in
                let session = try RunFixture(model: model, seed: 3).session(communicator)
                let parameters = session.model.registry.parameters.filter { $0.name != dropped }
                let writer = try SafeTensorsWriter(
                    directory + "/model.safetensors",
                    entries: parameters.map { SafeTensorsEntry(name: $0.name, shape: $0.shape.dimensions) }
                        + extra.sorted { $0.key < $1.key }.map {
                            SafeTensorsEntry(name: $0.key, shape: [$0.value.count])
                        })
                for parameter in parameters {
                    try writer.write(parameter.name, parameter.value.pointer, count: parameter.value.count)
                }
                for (name, values) in extra.sorted(by: { $0.key < $1.key }) { try writer.write(name, values) }
                try writer.finish()
            }
            return try body(directory)
        }
    }

    private static func parameters(_ fixture: RunFixture) throws -> [String: [Float]] {
        try InProcessWorld.run(size: 1) { communicator in
            let session = try fixture.session(communicator)
            return Dictionary(
                uniqueKeysWithValues: session.model.registry.parameters.map { ($0.name, $0.value.array) })
        }[0]
    }

    private static func logits(_ fixture: RunFixture) throws -> [Float] {
        try InProcessWorld.run(size: 1) { communicator in
            let session = try fixture.session(communicator)
            let logits = session.context.tensor(Shape(fixture.batch, fixture.time, 29))
            session.runtime.capturedLogits = logits
            _ = try session.trainStep(fixture.tokens(step: 1), step: 1, rate: 0) { _ in }
            return logits.array
        }[0]
    }

    private static let full = RunFixture(model: plain(6), seed: 3)

    private static func fixture(_ model: String, _ directory: String, _ rest: String = "") -> RunFixture {
        RunFixture(model: model, initialization: "{ checkpoint: \(directory)\(rest) }")
    }

    @Test func blocksBeforeAndAfterAreCopiedAndSharedOnesChosen() throws {
        try Self.withCheckpoint { directory in
            let full = try Self.parameters(Self.full)
            let matrix = "mlp.down_proj.weight"
            for (method, sources) in [
                ("stepwise", [[1], [4]]), ("average", [[1, 3], [2, 4]]), ("upper", [[3], [4]]),
            ] {
                let got = try Self.parameters(
                    Self.fixture(Self.recursive("count: 2"), directory, ", method: \(method)"))
                for layers in [[0], [5]] + sources {
                    let place = layers == [0] ? 0 : layers == [5] ? 5 : 1 + sources.firstIndex(of: layers)!
                    let expected = full["model.layers.\(layers[0]).\(matrix)"]!.indices.map { i in
                        Float(
                            layers.reduce(0.0) { $0 + Double(full["model.layers.\($1).\(matrix)"]![i]) }
                                / Double(layers.count))
                    }
                    #expect(got["model.layers.\(place).\(matrix)"] == expected, "\(method), layer \(place)")
                }
                for name in ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] {
                    #expect(got[name] == full[name])
                }
            }
        }
    }

    /// arXiv 2410.20672, section 3.2: corrections of full rank give the full model back.
    @Test(arguments: ["stepwise", "average", "random"]) func correctionsOfFullRankRestoreTheFullModel(
        method: String
    ) throws {
        let relaxation = "rank: 99, targets: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]"
        try Self.withCheckpoint { directory in
            let model = Self.recursive("count: 2, share_norms: false, relaxation: { \(relaxation) }")
            let expected = try Self.logits(Self.full)
            let scale = expected.map(abs).max()!
            func distance(_ fixture: RunFixture) throws -> Float {
                zip(try Self.logits(fixture), expected).map { abs($0 - $1) }.max()! / scale
            }
            let small = try distance(Self.fixture(model, directory, ", method: \(method)"))
            #expect(small < 1e-5)
            let large = try distance(Self.fixture(model, directory, ", method: \(method), low_rank: random"))
            #expect(large > 0.05)
        }
    }

    /// Eckart and Young: what a correction of lower rank misses are the singular values left out.
    @Test func correctionsAreTheBestOfTheirRank() throws {
        try Self.withCheckpoint { directory in
            let full = try Self.parameters(Self.full)
            let model = Self.recursive("count: 2, relaxation: { rank: 3, scale: 0.7, targets: [up_proj] }")
            let got = try Self.parameters(Self.fixture(model, directory))
            // Layers 1 and 4 are shared by applications 1, 3 and 2, 4.
            for (layer, base) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
                let (rows, columns) = (20, 12)
                let shared = got["model.layers.\(base).mlp.up_proj.weight"]!
                let delta = zip(full["model.layers.\(layer).mlp.up_proj.weight"]!, shared).map {
                    Double($0) - Double($1)
                }
                let down = got["model.layers.\(layer).mlp.up_proj.lora_A.weight"]!
                let up = got["model.layers.\(layer).mlp.up_proj.lora_B.weight"]!
                var missed = 0.0
                for row in 0..<rows {
                    for column in 0..<columns {
                        let product = (0..<3).reduce(0.0) {
                            $0 + Double(up[row * 3 + $1]) * Double(down[$1 * columns + column])
                        }
                        let difference = delta[row * columns + column] - Double(Float(0.7)) * product
                        missed += difference * difference
                    }
                }
                let values = try SingularValueDecomposition(delta, rows: rows, columns: columns).values
                let dropped = values.dropFirst(3).reduce(0) { $0 + $1 * $1 }
                #expect(abs(missed - dropped) <= 1e-5 * max(dropped, 1), "layer \(layer)")
                #expect((layer == 2 || layer == 3) == (dropped > 1), "layers that are themselves shared lack nothing")
            }
        }
    }

    @Test func averageOfEqualLayersIsTheLayer() throws {
        // A recursive model's weights, written once for every application.
        let source = Self.recursive("count: 3", isMiddle: false)
        let recursive = try Self.parameters(RunFixture(model: source, seed: 3))
        let aliases = Dictionary(
            uniqueKeysWithValues: recursive.flatMap { name, values in
                (1...2).compactMap { recursion -> (String, [Float])? in
                    guard name.hasPrefix("model.layers.") else { return nil }
                    let parts = name.split(separator: ".", maxSplits: 3)
                    return ("model.layers.\(Int(parts[2])! + 2 * recursion).\(parts[3])", values)
                }
            })
        try withTemporaryDirectory { directory in
            let all = recursive.merging(aliases) { $1 }.sorted { $0.key < $1.key }
            func shape(_ name: String, _ count: Int) -> [Int] {
                name.contains("norm") ? [count] : name.contains("down_proj") ? [12, 20] : [count / 12, 12]
            }
            func write(_ file: String, _ tensors: [(key: String, value: [Float])]) throws -> String {
                let writer = try SafeTensorsWriter(
                    directory + file,
                    entries: tensors.map { SafeTensorsEntry(name: $0.key, shape: shape($0.key, $0.value.count)) })
                for (name, values) in tensors { try writer.write(name, values) }
                try writer.finish()
                return directory + file
            }
            for file in [
                try write("/all.safetensors", all), try write("/one.safetensors", recursive.sorted { $0.key < $1.key }),
            ] {
                let method = file.hasSuffix("one.safetensors") ? "same" : "average"
                let got = try Self.parameters(Self.fixture(source, file, ", method: \(method)"))
                #expect(got == recursive)
            }
            // Aliases are checked where they are not averaged.
            let got = try Self.parameters(Self.fixture(source, directory + "/all.safetensors", ", method: same"))
            #expect(got == recursive)
            var drifted = all
            let index = drifted.firstIndex { $0.key == "model.layers.4.self_attn.o_proj.weight" }!
            drifted[index].value[5] += 1
            let file = try write("/drifted.safetensors", drifted)
            expectFailure(["'model.layers.4.self_attn.o_proj.weight' differs", "element 5", "average"]) {
                _ = try Self.parameters(Self.fixture(source, file, ", method: same"))
            }
        }
    }

    /// One recursion of six layers is the plain model.
    @Test func oneRecursionIsThePlainModel() throws {
        let expected = try Self.logits(Self.full)
        try Self.withCheckpoint { directory in
            for method in ["stepwise", "average", "lower", "upper", "random"] {
                let fixture = Self.fixture(
                    Self.recursive("count: 1", layers: 6, isMiddle: false), directory, ", method: \(method)")
                let got = try Self.logits(fixture)
                #expect(got == expected, "\(method)")
            }
            let got = try Self.logits(Self.fixture(Self.plain(6), directory))
            #expect(got == expected)
        }
    }

    @Test func ranksLeaveNoTrace() throws {
        try Self.withCheckpoint { directory in
            let fixture = Self.fixture(
                Self.recursive("count: 2, share_norms: false, relaxation: { rank: 4 }"), directory, ", method: average")
            let reference = try fixture.train(ranks: 1)
            for ranks in [2, 3, 5] {
                let differences = try fixture.train(ranks: ranks).differences(from: reference)
                #expect(differences.isEmpty, "\(ranks) ranks: \(differences)")
            }
        }
    }

    @Test func mistakesAreNamed() throws {
        let model = Self.recursive("count: 2")
        try Self.withCheckpoint(adding: extra("model.layers.1.mlp.up_proj.bias")) { directory in
            expectFailure(["'model.layers.1.mlp.up_proj.bias'", "no place", "describe in 'model'"]) {
                _ = try Self.parameters(Self.fixture(model, directory))
            }
        }
        // Ignored, as in every loader of this layout.
        try Self.withCheckpoint(adding: extra("model.layers.0.self_attn.rotary_emb.inv_freq")) { directory in
            _ = try Self.parameters(Self.fixture(model, directory))
        }
        try Self.withCheckpoint(dropping: "model.layers.4.self_attn.q_proj.weight") { directory in
            expectFailure(["no tensor 'model.layers.4.self_attn.q_proj.weight' [12, 12]"]) {
                _ = try Self.parameters(Self.fixture(model, directory))
            }
        }
        try Self.withCheckpoint { directory in
            expectFailure(["'model.embed_tokens.weight' has shape [29, 12], the model wants [29, 16]"]) {
                _ = try Self.parameters(
                    Self.fixture(model.replacingOccurrences(of: "width: 12", with: "width: 16"), directory))
            }
            expectFailure(["'lm_head.weight' differs", "tie_embeddings: false"]) {
                _ = try Self.parameters(Self.fixture("tie_embeddings: true\n" + model, directory))
            }
            expectFailure(["6 layers", "needs at least 7"]) {
                _ = try Self.parameters(
                    Self.fixture(Self.recursive("count: 2", layers: 7, isMiddle: false), directory))
            }
            expectFailure(["has no tensor 'model.layers.6.input_layernorm.weight'"]) {
                _ = try Self.parameters(Self.fixture(Self.plain(7), directory))
            }
            expectFailure(["method", "stepwize"]) {
                _ = try Self.parameters(Self.fixture(model, directory, ", method: stepwize"))
            }
        }
    }

    private func expectFailure(_ words: [String], _ body: () throws -> Void) {
        do {
            try body()
            Issue.record("nothing was thrown; expected \(words)")
        } catch {
            for word in words { #expect("\(error)".contains(word), "\(error)") }
        }
    }
}

private func withTemporaryDirectory<Result>(_ body: (String) throws -> Result) rethrows -> Result {
    let directory = TemporaryDirectory()
    return try withExtendedLifetime(directory) { try body(directory.path) }
}

private func extra(_ name: String) -> [String: [Float]] { [name: [1, 2]] }
