import Models
import Testing
import Training

@Suite struct DataTests {
    private func configuration(_ yaml: String, directory: String = ".") throws -> DataConfiguration {
        let reader = try ConfigurationReader(YAMLConfiguration.parse(yaml, file: "a.yaml"), path: "data")
        let result = try DataConfiguration(reader, directory: directory, batchSize: 2, sequenceLength: 3)
        try reader.finish()
        return result
    }

    private let counting = TokenSequence((0..<101).map { UInt16($0) })

    // MARK: Sampling

    @Test func randomWindowsAreAFunctionOfTheStep() throws {
        let sampler = try BatchSampler(counting, sampling: .random, batchSize: 4, sequenceLength: 7, seed: 3)
        let again = try BatchSampler(counting, sampling: .random, batchSize: 4, sequenceLength: 7, seed: 3)
        for step in [5, 0, 1_000_000] {
            let batch = sampler.batch(step: step)
            #expect(batch == again.batch(step: step))
            #expect(zip(batch.inputs, batch.targets).allSatisfy { $1 == $0 + 1 })
            #expect(batch.sampleIDs == (0..<4).map { UInt64(step * 4 + $0) })
            #expect(batch.resetsCarry)
            let part = again.batch(step: step, samples: 1..<3)
            #expect(part.inputs == Array(batch.inputs[7..<21]))
            #expect(part.sampleIDs == Array(batch.sampleIDs[1..<3]))
        }
        let other = try BatchSampler(counting, sampling: .random, batchSize: 4, sequenceLength: 7, seed: 4)
        #expect(sampler.batch(step: 0) != other.batch(step: 0))
        #expect(sampler.batch(step: 0) != sampler.batch(step: 1))
    }

    @Test func randomWindowsReachEveryPlaceEqually() throws {
        let sampler = try BatchSampler(counting, sampling: .random, batchSize: 10, sequenceLength: 91, seed: 1)
        // 10 places, 10,000 draws: 1000 ± 30 (one standard deviation).
        var hits = [Int](repeating: 0, count: 10)
        for step in 0..<1000 { for sample in 0..<10 { hits[sampler.start(step: step, sample: sample)] += 1 } }
        #expect(hits.allSatisfy { abs($0 - 1000) < 150 }, "\(hits)")
    }

    @Test func streamsRunOnAndWrap() throws {
        // 100 positions, 3 streams of 33, windows of 10: 3 steps a pass, 3 positions left over.
        let sampler = try BatchSampler(counting, sampling: .stream, batchSize: 3, sequenceLength: 10, seed: 0)
        #expect(sampler.stepsPerEpoch == 3)
        for step in 0..<7 {
            let batch = sampler.batch(step: step)
            #expect(batch.resetsCarry == (step % 3 == 0))
            for row in 0..<3 {
                let first = Int32(row * 33 + step % 3 * 10)
                #expect(Array(batch.inputs[row * 10..<row * 10 + 10]) == Array(first..<first + 10))
                #expect(Array(batch.targets[row * 10..<row * 10 + 10]) == Array(first + 1..<first + 11))
            }
        }
    }

    @Test(arguments: DataConfiguration.Sampling.allCases, [(1, 1), (3, 10), (4, 7), (7, 100), (101, 3)])
    func evaluationPredictsEveryTokenOnce(sampling: DataConfiguration.Sampling, shape: (batch: Int, length: Int)) throws
    {
        let batches = try EvaluationBatches(
            counting, sampling: sampling, batchSize: shape.batch, sequenceLength: shape.length)
        #expect(batches.tokenCount == 100)
        var seen: [Int32] = []
        for index in 0..<batches.count {
            let batch = batches.batch(index)
            #expect(batch.inputs.count == shape.batch * shape.length)
            #expect(batch.resetsCarry == (sampling == .random || index == 0))
            for (input, target) in zip(batch.inputs, batch.targets) where target != Batch.ignored {
                #expect(target == input + 1)
                seen.append(target)
            }
        }
        #expect(seen.sorted() == Array(1...100))
    }

    @Test func evaluationStopsAtItsLimit() throws {
        let batches = try EvaluationBatches(counting, sampling: .random, batchSize: 2, sequenceLength: 8, limit: 3)
        #expect(batches.count == 3)
        #expect(batches.tokenCount == 48)
        #expect((0..<3).map { batches.batch($0).targetCount } == [16, 16, 16])
    }

    // MARK: Files

    @Test func tokenFilesReadWhateverTheirWidth() throws {
        let directory = TemporaryDirectory()
        func numpy(_ name: String, _ type: String, _ width: Int, shape: String = "(4,)") -> String {
            let header = "{'descr': '\(type)', 'fortran_order': False, 'shape': \(shape), }"
            let padded = header + String(repeating: " ", count: 117 - header.count) + "\n"
            var bytes: [UInt8] = [0x93] + Array("NUMPY".utf8) + [1, 0, 118, 0] + Array(padded.utf8)
            for token in [5, 1, 300, 2] { bytes += (0..<width).map { UInt8(truncatingIfNeeded: token >> (8 * $0)) } }
            return directory.file(name, bytes)
        }
        let files = [
            directory.file("a.bin", [5, 0, 1, 0, 44, 1, 2, 0]), numpy("b.npy", "<u2", 2), numpy("c.npy", "<i4", 4),
            numpy("d.npy", "<i8", 8),
        ]
        for file in files {
            let corpus = try Corpus(
                DataConfiguration(
                    format: .tokens, source: .cut([file], shares: [0.5, 0.5]), sequenceLength: 1, batchSize: 1))
            #expect(corpus.vocabulary.count == 301)
            let valid = try corpus.tokens(.valid)
            #expect([valid[0], valid[1]] == [300, 2])
            #expect(
                message {
                    _ = try Corpus(
                        DataConfiguration(
                            format: .tokens, source: .cut([file], shares: [1]), vocabularySize: 300, sequenceLength: 1,
                            batchSize: 1))
                }
                    == "data: token 300 at position 2 of the train split is outside 0..<300;"
                    + " raise data.vocabulary_size, or tokenize the file again")
        }
        for (path, words) in [
            (numpy("e.npy", "<f4", 4), "expected uint8, uint16, int32, uint32 or int64"),
            (numpy("f.npy", "<u2", 2, shape: "(2, 2)"), "expected one dimension"),
            (numpy("g.npy", "<u2", 2, shape: "(9,)"), "truncated: expected 146 bytes, found 136"),
            (directory.file("h.bin", [1, 2, 3]), "has an odd number of bytes, 3"),
            (directory.file("i.txt", "1 2"), "is not a token file"),
        ] {
            let got = message {
                _ = try Corpus(
                    DataConfiguration(
                        format: .tokens, source: .cut([path], shares: [1]), sequenceLength: 1, batchSize: 1))
            }
            #expect(got.contains(words), "\(got)")
        }
    }

    @Test func patternsJoinFilesInOrder() throws {
        let directory = TemporaryDirectory()
        for name in ["p2.txt", "p1.txt", "q.txt"] { directory.file(name, name) }
        let data = try configuration(
            "{format: bytes, text: ['p*.txt', q.txt], split: [0.5, 0.25, 0.25]}",
            directory: directory.path)
        let corpus = try Corpus(data)
        let train = try corpus.tokens(.train)
        #expect(corpus.vocabulary.decode((0..<train.count).map { train[$0] }) == "p1.txtp2")
        #expect(try corpus.tokens(.test).count == 5)
    }

    // MARK: Errors

    @Test func badDataIsExplained() throws {
        let directory = TemporaryDirectory()
        directory.file("short", "abc")
        directory.file("empty", "")
        func load(_ source: DataConfiguration.Source, _ format: DataConfiguration.Format = .bytes) -> String {
            message(in: directory) {
                let data = DataConfiguration(
                    format: format, source: source, sequenceLength: 8, batchSize: 2, directory: directory.path)
                _ = try BatchSampler(Corpus(data), data, seed: 0)
            }
        }
        #expect(
            load(.cut(["none*"], shares: [1]))
                == "data: no file matches 'none*'; tried none* and none*; paths start at the configuration file's"
                + " directory, then at the current one")
        #expect(load(.files(train: ["empty"], valid: [], test: [])).hasPrefix("data: the train split is empty;"))
        #expect(
            load(.files(train: ["short"], valid: ["empty"], test: []), .words).hasPrefix(
                "data: the valid split is empty;"))
        #expect(
            load(.files(train: ["short"], valid: [], test: []))
                == "data: the train split has 3 tokens, but 9 are needed (sequence_length 8 + 1);"
                + " give it more text, or reduce train.sequence_length or train.batch_size")
        #expect(
            message {
                _ = try BatchSampler(counting, sampling: .stream, batchSize: 20, sequenceLength: 8, seed: 0)
            }.hasPrefix("data: the train split has 101 tokens, but 161 are needed (batch_size 20 streams of"))
        directory.file("latin", [0xE9, 0x41])
        #expect(
            load(.cut(["latin"], shares: [1]), .characters)
                == "latin: is not UTF-8 text; convert it, or read it as bytes")
        #expect(load(.cut([directory.path], shares: [1])).hasSuffix("is a directory; a file is needed here"))
    }

    @Test(arguments: [
        (
            "{format: byte}",
            "a.yaml:1:10: 'data.format' must be one of bytes, characters, words, tokens; found 'byte'; did you mean 'bytes'?"
        ),
        (
            "{format: bytes}",
            "a.yaml:1:1: 'data.text': is missing; give 'text: path', or 'train: path' and 'valid: path'"
        ),
        (
            "{format: bytes, text: a, train: b}",
            "a.yaml:1:33: 'data.train': cannot be combined with 'text'; keep one of them"
        ),
        (
            "{format: bytes, text: a, split: [0.9, 0.2]}",
            "a.yaml:1:33: 'data.split': must be one to three shares (train, valid, test) that sum to at most 1"
        ),
        (
            "{format: bytes, text: a, batch_size: 2}",
            "a.yaml:1:26: unknown key 'batch_size' in 'data'; allowed: format, train, text, split, sampling"
        ),
        ("{format: bytes, text: a, minimum_count: 3}", "a.yaml:1:26: unknown key 'minimum_count' in 'data';"),
    ])
    func badSectionsAreExplained(yaml: String, expected: String) {
        let got = message { _ = try configuration(yaml) }
        #expect(got.hasPrefix(expected), "\(got)")
    }
}
