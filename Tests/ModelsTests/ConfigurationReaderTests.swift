import Models
import Testing

private typealias Node = ConfigurationNode

/// A tree as a YAML file would give it; every entry sits on its own line of `t.yaml`.
private func mapping(_ entries: [(String, Node.Content)], line: Int = 1) -> Node {
    Node(
        .mapping(
            entries.enumerated().map { offset, entry in
                .init(
                    key: entry.0, keyLocation: .init(file: "t.yaml", line: line + offset, column: 1),
                    value: Node(entry.1, at: .init(file: "t.yaml", line: line + offset, column: 9)))
            }), at: .init(file: "t.yaml", line: line, column: 1))
}

private func word(_ text: String) -> Node.Content { .scalar(text, quoted: false) }

private func message(_ body: () throws(ConfigurationError) -> Void) -> String {
    do {
        try body()
        return "no error"
    } catch {
        return error.description
    }
}

@Suite struct ConfigurationReaderTests {
    @Test func readsEveryKindOfValue() throws {
        let list = Node.Content.sequence([
            Node(word("1"), at: .init(file: "t")), Node(word("2"), at: .init(file: "t")),
        ])
        let reader = try ConfigurationReader(
            mapping([
                ("i", word("1_000")), ("d", word("1e-3")), ("b", word("true")), ("s", word("text")),
                ("c", word("two")), ("l", list), ("one", word("a.txt")), ("auto", word("auto")), ("n", word("4")),
                ("none", word("null")),
            ]))
        #expect(try reader.int("i", in: 1...2000) == 1000)
        #expect(try reader.double("d", above: 0) == 1e-3)
        #expect(try reader.bool("b"))
        #expect(try reader.string("s") == "text")
        #expect(try reader.choice("c", of: ["one", "two"]) == "two")
        #expect(try reader.intList("l") == [1, 2])
        #expect(try reader.doubleList("l", count: 2) == [1, 2])
        #expect(try reader.stringList("one") == ["a.txt"])
        #expect(try reader.intOrAuto("auto") == nil)
        #expect(try reader.intOrAuto("n") == 4)
        #expect(try reader.optionalInt("none") == nil)
        #expect(try reader.int("absent", default: 7) == 7)
        #expect(try reader.optionalDouble("absent2") == nil)
        #expect(!reader.has("absent3"))
        try reader.finish()
    }

    @Test func enumerationsReadByRawValue() throws {
        enum Sampling: String, CaseIterable { case random, stream }
        let reader = try ConfigurationReader(mapping([("sampling", word("stream"))]))
        #expect(try reader.choice("sampling", as: Sampling.self) == .stream)
        #expect(try reader.choice("other", default: Sampling.random) == .random)
    }

    @Test func errorsSayWhereWhatAndHow() throws {
        let node = mapping([
            ("width", word("12.5")), ("depth", word("99")), ("rate", word("nan")), ("flag", word("yes")),
            ("kind", word("grup")), ("list", word("3")), ("quoted", .scalar("5", quoted: true)), ("empty", word("")),
        ])
        let reader = try ConfigurationReader(node, path: "model")
        let table: [(String, String)] = [
            (
                message { () throws(ConfigurationError) in _ = try reader.int("width") },
                "t.yaml:1:9: 'model.width' must be an integer; found '12.5'"
            ),
            (
                message { () throws(ConfigurationError) in _ = try reader.int("depth", in: 1...9) },
                "t.yaml:2:9: 'model.depth' must be an integer from 1 to 9; found '99'"
            ),
            (
                message { () throws(ConfigurationError) in _ = try reader.double("rate", above: 0, below: 1) },
                "t.yaml:3:9: 'model.rate' must be a number greater than 0.0 and less than 1.0; found 'nan'"
            ),
            (
                message { () throws(ConfigurationError) in _ = try reader.bool("flag") },
                "t.yaml:4:9: 'model.flag' must be true or false; found 'yes'"
            ),
            (
                message { () throws(ConfigurationError) in _ = try reader.choice("kind", of: ["gru", "lstm"]) },
                "t.yaml:5:9: 'model.kind' must be one of gru, lstm; found 'grup'; did you mean 'gru'?"
            ),
            (
                message { () throws(ConfigurationError) in _ = try reader.intList("list", count: 2) },
                "t.yaml:6:9: 'model.list' must be a list of 2 integers; found '3'"
            ),
            (
                message { () throws(ConfigurationError) in _ = try reader.int("quoted") },
                "t.yaml:7:9: 'model.quoted' must be an integer; found the string \"5\""
            ),
            (
                message { () throws(ConfigurationError) in _ = try reader.int("empty", in: 1 ... .max) },
                "t.yaml:1:1: missing key 'empty' in 'model'; expected an integer of at least 1; add 'empty: ...' there"
            ),
            (
                message { () throws(ConfigurationError) in _ = try reader.section("flag") },
                "t.yaml:4:9: 'model.flag' must be a section of 'key: value' lines; found 'yes'"
            ),
            (
                message { () throws(ConfigurationError) in _ = try reader.sections("layers", required: true) },
                "t.yaml:1:1: missing key 'layers' in 'model'; expected a list of sections; add 'layers: ...' there"
            ),
            (reader.error("depth", "must divide 64").description, "t.yaml:2:9: 'model.depth': must divide 64"),
        ]
        for (got, expected) in table { #expect(got == expected) }
    }

    @Test(arguments: [
        ("n_head", "head_count"), ("heads_count", "head_count"), ("widht", "width"), ("vocab_size", "vocabulary_size"),
        ("learning-rate", "learning_rate"), ("xyzzy", ""),
    ])
    func unknownKeysSuggestTheNearest(written: String, meant: String) throws {
        let reader = try ConfigurationReader(mapping([(written, word("1"))], line: 14), path: "model.layers[0].mixer")
        for key in ["head_count", "width", "vocabulary_size", "learning_rate"] { _ = try reader.optionalInt(key) }
        let hint = meant.isEmpty ? ";" : "; did you mean '\(meant)'?"
        #expect(
            message { () throws(ConfigurationError) in try reader.finish() }
                == "t.yaml:14:1: unknown key '\(written)' in 'model.layers[0].mixer'\(hint)"
                + " allowed: head_count, width, vocabulary_size, learning_rate")
    }

    @Test func finishReachesSectionsHandedOut() throws {
        let inner = mapping([("repeet", word("2"))], line: 5)
        let root = mapping([("layers", .sequence([inner]))])
        let reader = try ConfigurationReader(root)
        let layer = try reader.sections("layers")[0]
        #expect(layer.path == "layers[0]")
        #expect(try layer.int("repeat", default: 1) == 1)
        #expect(
            message { () throws(ConfigurationError) in try reader.finish() }
                == "t.yaml:5:1: unknown key 'repeet' in 'layers[0]'; did you mean 'repeat'? allowed: repeat")
    }

    @Test func keysWithoutEffectAreErrors() throws {
        let reader = try ConfigurationReader(mapping([("momentum", word("0.9"))]), path: "optimizer")
        #expect(reader.has("momentum"))
        #expect(
            message { () throws(ConfigurationError) in try reader.finish() }
                == "t.yaml:1:1: key 'momentum' in 'optimizer' has no effect with the other settings given;"
                + " remove it, or change the setting that disables it")
    }

    @Test func resolvedHoldsDefaults() throws {
        let reader = try ConfigurationReader(mapping([("steps", word("5"))]))
        _ = try reader.int("steps")
        _ = try reader.section("optimizer").double("beta", default: 0.9)
        _ = try reader.section("empty")
        let resolved = reader.resolved
        guard case .mapping(let entries) = resolved.content else {
            Issue.record("resolved is not a mapping")
            return
        }
        #expect(entries.map(\.key) == ["steps", "optimizer"])
        guard case .scalar("0.9", _)? = resolved["optimizer"]?["beta"]?.content else {
            Issue.record("beta is missing from \(resolved)")
            return
        }
    }
}
