import Testing
import Training

@Suite struct TokenizerTests {
    private func corpus(
        _ format: DataConfiguration.Format, _ train: String, valid: String? = nil, size: Int? = nil,
        minimum: Int = 1, endOfLine: Bool = true
    ) throws -> Corpus {
        let directory = TemporaryDirectory()
        directory.file("train", train)
        if let valid { directory.file("valid", valid) }
        return try Corpus(
            DataConfiguration(
                format: format, source: .files(train: ["train"], valid: valid == nil ? [] : ["valid"], test: []),
                vocabularySize: size, minimumCount: minimum, endOfLine: endOfLine, sequenceLength: 1, batchSize: 1,
                directory: directory.path))
    }

    private func ids(_ sequence: TokenSequence) -> [Int32] { (0..<sequence.count).map { sequence[$0] } }

    @Test func wordsAreRankedByFrequency() throws {
        let corpus = try corpus(.words, "b a b\n\n c  b\ta", valid: "a zebra\n")
        #expect(corpus.vocabulary.symbols == ["<unk>", "<eos>", "b", "a", "c"])
        #expect(ids(try corpus.tokens(.train)) == [2, 3, 2, 1, 1, 4, 2, 3, 1])
        #expect(ids(try corpus.tokens(.valid)) == [3, 0, 1])
        #expect(corpus.vocabulary.decode([2, 3, 1, 4]) == "b a\nc")
        #expect(try corpus.vocabulary.encode("a nobody\nb") == [3, 0, 1, 2])
    }

    @Test func rareWordsAreUnknown() throws {
        #expect(try corpus(.words, "a a b c <unk>", minimum: 2).vocabulary.symbols == ["<unk>", "<eos>", "a"])
        #expect(try corpus(.words, "a a b c", size: 3).vocabulary.symbols == ["<unk>", "<eos>", "a"])
        let plain = try corpus(.words, "a\nb\n", endOfLine: false)
        #expect(plain.vocabulary.symbols == ["<unk>", "a", "b"])
        #expect(ids(try plain.tokens(.train)) == [1, 2])
    }

    @Test func charactersAreSortedScalars() throws {
        let corpus = try corpus(.characters, "héa", valid: "z")
        #expect(corpus.vocabulary.symbols == ["a", "h", "z", "é"])
        #expect(ids(try corpus.tokens(.train)) == [1, 3, 0])
        #expect(corpus.vocabulary.decode(try corpus.vocabulary.encode("zéh")) == "zéh")
        #expect(
            message { _ = try corpus.vocabulary.encode("q") }
                == "the vocabulary has no symbol 'q'; leave it out, or train on data that contains it")
    }

    @Test func bytesAreThemselves() throws {
        let corpus = try corpus(.bytes, "aé")
        #expect(ids(try corpus.tokens(.train)) == [97, 195, 169])
        #expect(Vocabulary.bytes.decode([97, 195, 169]) == "aé")
    }

    @Test func vocabulariesSurviveACheckpoint() throws {
        for vocabulary in [
            Vocabulary.bytes, .tokens(7), Vocabulary(characters: ["\n", "\"", "é"]), Vocabulary(words: ["<unk>", "a"]),
        ] {
            let text = vocabulary.json.text
            let back = try Vocabulary(JSON(parsing: Array(text.utf8)), path: "v")
            #expect(back == vocabulary && back.vocabularyHash == vocabulary.vocabularyHash)
            try back.requireSame(as: vocabulary)
        }
        let changed = Vocabulary(words: ["<unk>", "a"]).json.text.replacing("\"a\"", with: "\"b\"")
        #expect(
            message { _ = try Vocabulary(JSON(parsing: Array(changed.utf8)), path: "v") }.hasPrefix(
                "v: the vocabulary's hash"))
    }

    @Test func mismatchesNameTheFirstDifference() {
        let saved = Vocabulary(words: ["<unk>", "a", "b"])
        #expect(
            message { try Vocabulary(words: ["<unk>", "c"]).requireSame(as: saved) }
                == "vocabulary mismatch: the checkpoint has 3 symbols, the data 2, and token 1 is 'a' there but 'c' here;"
                + " use the data the checkpoint was trained on")
        #expect(
            message { try Vocabulary(words: ["<unk>", "a"]).requireSame(as: saved) }
                == "vocabulary mismatch: the checkpoint has 3 symbols, the data 2; use the data the checkpoint was trained on"
        )
        #expect(message { try Vocabulary.bytes.requireSame(as: saved) }.contains("format is words, the data's bytes"))
        #expect(Vocabulary(words: ["ab", "c"]).vocabularyHash != Vocabulary(words: ["a", "bc"]).vocabularyHash)
    }

    /// Published counts of the three sets.
    @Test(.enabled(if: SharedData.has("wikitext-2/train.txt"), "the shared test data is absent"))
    func publishedCountsAgree() throws {
        func words(_ train: String, _ valid: String, _ test: String) throws -> [Int] {
            let corpus = try Corpus(
                DataConfiguration(
                    format: .words, source: .files(train: [train], valid: [valid], test: [test]), sequenceLength: 35,
                    batchSize: 20, directory: SharedData.directory))
            let splits = Corpus.Split.allCases
            return try [corpus.vocabulary.count] + splits.map { try corpus.tokens($0).count }
        }
        #expect(
            try words("wikitext-2/train.txt", "wikitext-2/valid.txt", "wikitext-2/test.txt")
                == [33278, 2_088_628, 217_646, 245_569])
        #expect(
            try words("ptb/ptb.train.txt", "ptb/ptb.valid.txt", "ptb/ptb.test.txt") == [10000, 929_589, 73_760, 82_430])
        let shakespeare = try Corpus(
            DataConfiguration(
                format: .characters, source: .cut(["tinyshakespeare/input.txt"], shares: [0.9, 0.1]),
                sequenceLength: 64, batchSize: 12, directory: SharedData.directory))
        #expect(shakespeare.vocabulary.count == 65)
        #expect(try shakespeare.tokens(.train).count == 1_003_854)
        #expect(try shakespeare.tokens(.valid).count == 111_540)
    }
}
