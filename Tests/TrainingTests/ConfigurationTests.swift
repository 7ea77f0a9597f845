import Foundation
import Models
import Testing
import Training

@Suite struct ConfigurationTests {
    private let text = """
        # comment
        train:
          steps: 100
          name: "5"
        model:
          layers:
            - mixer: lstm
              repeat: 2
            - mixer: gru
        list: [1, 2]
        """

    @Test func locationsAreThoseOfTheFile() throws {
        let root = try YAMLConfiguration.parse(text, file: "a.yaml")
        #expect(root["train"]?["steps"]?.location.description == "a.yaml:3:10")
        let reader = try ConfigurationReader(root)
        let train = try reader.section("train")
        #expect(try train.int("steps") == 100)
        #expect(
            message { _ = try train.int("name") }
                == "a.yaml:4:9: 'train.name' must be an integer; found the string \"5\"")
        #expect(
            message { try reader.finish() }
                == "a.yaml:5:1: unknown key 'model' at the top level; allowed: train")
    }

    @Test(arguments: [
        ("a: [1, 2\nb: 3", "a.yaml:2:2: invalid YAML: "),
        ("a: 1\n  b: 2", "a.yaml:2:4: invalid YAML: "),
        ("a: 1\nb: 2\na: 3", "a.yaml:1:1: key 'a' is written twice in one section; remove one"),
        ("a: *nowhere", "a.yaml:1:4: invalid YAML: "),
        ("[1]: 2", "a.yaml:1:1: a key must be a plain word"),
        ("a: 1\n---\nb: 2", "a.yaml:2:1: invalid YAML: "),
    ])
    func syntaxErrorsHaveAPlace(yaml: String, start: String) {
        let got = message { _ = try YAMLConfiguration.parse(yaml, file: "a.yaml") }
        #expect(got.hasPrefix(start), "\(got)")
    }

    @Test func emptyFilesAndMergesRead() throws {
        #expect(try ConfigurationReader(YAMLConfiguration.parse("# nothing", file: "a")).has("x") == false)
        let merged = try YAMLConfiguration.parse(
            "base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n", file: "a.yaml")
        let use = try ConfigurationReader(merged).section("use")
        #expect(try use.int("x") == 1)
        #expect(try use.int("y") == 3)
    }

    @Test func overridesReachEverywhere() throws {
        var root = try YAMLConfiguration.parse(text, file: "a.yaml")
        root = try Overrides.apply(
            [
                "train.steps=5", "model.layers[0].repeat=7", "new.section.key=[a, b]", "train.name=null",
                "train.steps=6",
            ],
            to: root)
        let reader = try ConfigurationReader(root)
        #expect(try reader.section("train").int("steps") == 6)
        #expect(try reader.section("train").optionalString("name") == nil)
        #expect(try reader.section("model").sections("layers")[0].int("repeat") == 7)
        #expect(try reader.section("new").section("section").stringList("key") == ["a", "b"])
    }

    @Test(arguments: [
        ("steps", "expected key.path=value, such as train.steps=5"),
        ("train..steps=1", "the key path has an empty part; write it as in train.steps=5"),
        ("model.layers[x].repeat=1", "'[x]' is not a list index; write it as in model.layers[0]"),
        ("model.layers[2].repeat=1", "'model.layers' has 2 elements, numbered from 0; there is no [2]"),
        ("model[0]=1", "'model' is not a list, so it has no element 0"),
        ("train.steps.x=1", "'train.steps' at a.yaml:3:10 is not a section, so it has no 'x'"),
        ("train.steps=[1", "the value after '=' is not valid YAML; put quotes round it if it is text"),
    ])
    func badOverridesAreExplained(override: String, reason: String) throws {
        let root = try YAMLConfiguration.parse(text, file: "a.yaml")
        #expect(
            message { _ = try Overrides.apply([override], to: root) }
                == "command line override '\(override)': \(reason)")
    }

    @Test func errorsInOverriddenValuesNameTheOverride() throws {
        let root = try Overrides.apply(["train.steps=x"], to: YAMLConfiguration.parse(text, file: "a.yaml"))
        #expect(
            message { _ = try ConfigurationReader(root).section("train").int("steps") }
                == "command line override 'train.steps=x': 'train.steps' must be an integer; found 'x'")
    }

    @Test func unreadableFilesAreNamed() {
        let directory = TemporaryDirectory()
        #expect(
            message(in: directory) { _ = try YAMLConfiguration.load(directory.path + "/no.yaml") }
                == "no.yaml: no such file; check the path (relative paths start at the current directory)")
        #expect(
            message { _ = try YAMLConfiguration.load(directory.path) }
                == "\(directory.path): is a directory; give a YAML file inside it")
        let binary = directory.file("b.yaml", [0xFF, 0xFE, 0x00])
        #expect(message(in: directory) { _ = try YAMLConfiguration.load(binary) } == "b.yaml: is not UTF-8 text")
    }

    @Test(.enabled(if: geteuid() != 0, "the superuser may read everything"))
    func forbiddenFilesAreNamed() {
        let directory = TemporaryDirectory()
        let path = directory.file("secret.yaml", "a: 1")
        chmod(path, 0)
        #expect(
            message(in: directory) { _ = try YAMLConfiguration.load(path) }
                == "secret.yaml: permission denied; make it accessible to this user")
    }

    @Test func dumpReadsBackTheSame() throws {
        let tricky = """
            text: "5"
            word: plain
            path: /a/b-c.txt
            number: 1e-3
            truth: true
            notTruth: "true"
            empty: {}
            strings: ["a: b", "", "x\\ny", "-", "é"]
            nested:
              - a: 1
                b: [1, 2]
                c: {d: {e: f}}
              - - 1
                - {x: y}
            """
        let root = try YAMLConfiguration.parse(tricky, file: "a.yaml")
        let once = YAMLConfiguration.dump(root)
        let again = try YAMLConfiguration.parse(once, file: "dump")
        #expect(YAMLConfiguration.dump(again) == once)
        let reader = try ConfigurationReader(again)
        #expect(try reader.string("notTruth") == "true")
        #expect(message { _ = try reader.bool("notTruth") }.contains("must be true or false"))
        #expect(message { _ = try reader.int("text") }.contains("must be an integer"))
        #expect(try reader.double("number") == 1e-3)
        #expect(try reader.stringList("strings") == ["a: b", "", "x\ny", "-", "é"])
    }
}
