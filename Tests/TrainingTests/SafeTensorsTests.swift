import Foundation
import Testing
import Training

@Suite struct SafeTensorsTests {
    private static let fixture = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("Fixtures/python.safetensors").path

    /// A file with the given header text and data.
    private func raw(_ header: String, data: Int) -> [UInt8] {
        let length = UInt64(header.utf8.count)
        return (0..<8).map { UInt8(truncatingIfNeeded: length >> (8 * $0)) } + Array(header.utf8)
            + [UInt8](repeating: 0, count: data)
    }

    /// Written by the Python package 0.8.0.
    @Test func readsAFileOfThePythonPackage() throws {
        let file = try SafeTensorsFile(Self.fixture)
        #expect(file.metadata == ["format": "pt"])
        #expect(Set(file.entries.map(\.name)) == ["a.weight", "half", "brain", "ids", "step"])
        #expect(file.entry("a.weight")?.shape == [2, 3])
        #expect(try file.floats("a.weight") == [0, 0.25, 0.5, 0.75, 1, 1.25])
        let half = try file.floats("half")
        #expect(half.prefix(3) == [0.5, -1.5, 65504])
        #expect(half[3] == 0x1p-24 && half[4] == 0 && half[4].sign == .minus)
        #expect(try file.floats("brain") == [1, -3, .infinity])
        #expect(try file.integers("ids") == [-3, 1 << 40])
        #expect(file.entry("step")?.shape == [])
        #expect(try file.integers("step") == [7])
    }

    @Test func halfPrecisionWidensExactly() throws {
        let directory = TemporaryDirectory()
        var bytes = raw(#"{"h":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]}}"#, data: 0)
        for bits in 0..<65536 { bytes += [UInt8(bits & 255), UInt8(bits >> 8)] }
        let values = try SafeTensorsFile(directory.file("h.safetensors", bytes)).floats("h")
        for bits in 0..<65536 {
            let exponent = bits >> 10 & 31
            let fraction = Double(bits & 1023)
            var expected = exponent == 0 ? fraction * 0x1p-24 : (1024 + fraction) * pow(2, Double(exponent - 25))
            if exponent == 31 { expected = fraction == 0 ? .infinity : .nan }
            if bits >= 32768 { expected = -expected }
            let got = Double(values[bits])
            #expect(got == expected || (got.isNaN && expected.isNaN), "bits \(bits)")
        }
    }

    @Test func writesTheSameBytesForTheSameTensors() throws {
        let directory = TemporaryDirectory()
        for name in ["a", "b"] {
            let writer = try SafeTensorsWriter(
                "\(directory.path)/\(name)",
                entries: [
                    .init(name: "w", shape: [2, 2]), .init(name: "none", shape: [0, 3]),
                    .init(name: "n", element: .int64, shape: []),
                ], metadata: [("format", "pt"), ("quote", "a\"b")])
            try writer.write("w", [Float]([1, 2, 3, -4]))
            try writer.write("none", [Float]())
            try writer.write("n", [Int64(-9)])
            let entry = try writer.finish()
            #expect(entry.byteCount == directory.bytes(name).count)
            #expect(entry.checksum == Checksum(of: directory.bytes(name)).description)
        }
        #expect(directory.bytes("a") == directory.bytes("b"))
        let file = try SafeTensorsFile(directory.path + "/a")
        #expect(file.entries.map(\.name) == ["w", "none", "n"])
        #expect(file.metadata == ["format": "pt", "quote": "a\"b"])
        #expect(try file.floats("w") == [1, 2, 3, -4])
        #expect(try file.floats("none") == [])
        #expect(try file.integers("n") == [-9])
        let header = directory.bytes("a").prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
        #expect(header % 8 == 0)
    }

    @Test func damagedFilesAreExplained() throws {
        let directory = TemporaryDirectory()
        func tensor(_ begin: Int, _ end: Int, _ type: String = "F32", shape: String = "[1]") -> String {
            #"{"dtype":"\#(type)","shape":\#(shape),"data_offsets":[\#(begin),\#(end)]}"#
        }
        let table: [([UInt8], String)] = [
            ([1, 2, 3], "x: truncated: expected 8 bytes, found 3;"),
            ([0, 0, 0, 0, 0, 0, 0, 1], "x: claims a header of 72057594037927936 bytes, more than 100000000;"),
            ([9, 0, 0, 0, 0, 0, 0, 0, 123], "x: truncated: expected 17 bytes, found 9;"),
            (raw("{\"a\":", data: 0), "x: header: invalid JSON at byte 5: the text ends where a value should be"),
            (raw("[]", data: 0), "x: the header is not a JSON object"),
            (raw("{\"a\":\(tensor(0, 4)),\"a\":\(tensor(4, 8))}", data: 8), "x: header: invalid JSON at byte "),
            (raw("{\"a\":\(tensor(0, 4))}", data: 3), "x: truncated: expected "),
            (raw("{\"a\":\(tensor(0, 4))}", data: 5), "x: has 1 bytes after the last tensor"),
            (
                raw("{\"a\":\(tensor(0, 4)),\"b\":\(tensor(8, 12))}", data: 12),
                "x: tensor 'b' starts at data byte 8 and leaves a hole before it (expected 4)"
            ),
            (
                raw("{\"a\":\(tensor(0, 4)),\"b\":\(tensor(2, 6))}", data: 6),
                "x: tensor 'b' starts at data byte 2 and overlaps the tensor before it (expected 4)"
            ),
            (raw("{\"a\":\(tensor(0, 5))}", data: 5), "x: tensor 'a': F32 [1] needs 4 bytes, but its offsets span 5"),
            (
                raw("{\"a\":\(tensor(0, 4, "F4"))}", data: 4),
                "x: tensor 'a': dtype 'F4' is not supported; known: BOOL, U8,"
            ),
            (raw("{\"a\":\(tensor(0, 4, shape: "[-1]"))}", data: 4), "x: tensor 'a': 'shape' must be a list of sizes"),
            (
                raw("{\"a\":\(tensor(0, 4, shape: "[4294967296,4294967296]"))}", data: 4),
                "x: tensor 'a': the shape [4294967296, 4294967296] is too large"
            ),
        ]
        for (bytes, start) in table {
            let path = directory.file("x", bytes)
            let got = message(in: directory) { _ = try SafeTensorsFile(path) }
            #expect(got.hasPrefix(start), "\(got)")
        }
        let file = try SafeTensorsFile(Self.fixture)
        #expect(message { _ = try file.floats("missing") }.hasSuffix("has no tensor 'missing' among its 5"))
        #expect(
            message { _ = try file.floats("ids") }.hasSuffix("tensor 'ids' holds I64; expected a floating-point type"))
        #expect(
            message { _ = try file.integers("half") }.hasSuffix("tensor 'half' holds F16; expected an integer type"))
    }

    @Test func everyTruncationIsNoticed() throws {
        let directory = TemporaryDirectory()
        let whole = [UInt8](try Data(contentsOf: URL(fileURLWithPath: Self.fixture)))
        for length in 0..<whole.count {
            let path = directory.file("t", Array(whole.prefix(length)))
            #expect(message { _ = try SafeTensorsFile(path) }.contains("truncated"), "length \(length)")
        }
    }

    @Test func shardsReadAsOneModel() throws {
        let directory = TemporaryDirectory()
        var shards: [(String, String)] = []
        for shard in 0..<2 {
            let name = SafeTensorsIndex.fileName(shard: shard, of: 2)
            let writer = try SafeTensorsWriter(
                "\(directory.path)/\(name)", entries: [.init(name: "t\(shard)", shape: [1])])
            try writer.write("t\(shard)", [Float(shard)])
            try writer.finish()
            shards.append(("t\(shard)", name))
        }
        shards.append(("lost", shards[0].1))
        let index = SafeTensorsIndex(shards: shards, totalByteCount: 8)
        let path = "\(directory.path)/model.safetensors.index.json"
        try index.write(to: path)
        #expect(try SafeTensorsIndex(readingFrom: path) == index)
        #expect(directory.names()[0] == "model-00001-of-00002.safetensors")
        for place in [directory.path, path] {
            let model = try SafeTensorsCollection(place)
            #expect(model.names == ["t0", "t1", "lost"])
            #expect(try model.floats("t1") == [1])
            #expect(
                message(in: directory) { _ = try model.entry("lost") }
                    == "model-00001-of-00002.safetensors: lacks the tensor 'lost', which the index places there")
        }
    }

    @Test(.enabled(if: Python.has("safetensors"), "needs python3 with the package safetensors"))
    func thePythonPackageReadsOurFiles() throws {
        let directory = TemporaryDirectory()
        let writer = try SafeTensorsWriter(
            directory.path + "/ours",
            entries: [.init(name: "w", shape: [2, 3]), .init(name: "n", element: .int64, shape: [2])],
            metadata: [("step", "3")])
        try writer.write("w", [Float]([1, 2, 3, 4, 5, 6.5]))
        try writer.write("n", [Int64(1), -2])
        try writer.finish()
        let script = """
            from safetensors import safe_open
            with safe_open('\(directory.path)/ours', framework='np') as f:
                print(f.metadata(), f.get_tensor('w').tolist(), f.get_tensor('n').tolist())
            """
        #expect(Python.run(script) == "{'step': '3'} [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]] [1, -2]\n")
    }

    /// A file with a scalar and names out of file order, written by PyTorch.
    @Test(.enabled(if: SharedData.has("checkpoints"), "the shared test data is absent"))
    func readsFilesFromElsewhere() throws {
        let directory = SharedData.directory + "/checkpoints"
        let mixed = try SafeTensorsFile(directory + "/fixtures/multi_layer.safetensors")
        #expect(mixed.entries.contains { $0.element == .int64 && $0.shape.isEmpty })
        let brain = try SafeTensorsCollection(directory + "/rwkv7-834k")
        #expect(try brain.entry(brain.names[0]).element == .bfloat16)
        for name in brain.names { #expect(try brain.floats(name).allSatisfy(\.isFinite)) }
    }
}

enum Python {
    static func has(_ package: String) -> Bool { run("import numpy, \(package)\nprint(1)") == "1\n" }

    /// Standard output of a script, nil if it fails or there is no Python.
    static func run(_ script: String) -> String? {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3", "-c", script]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        guard (try? process.run()) != nil else { return nil }
        let data = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return process.terminationStatus == 0 ? String(decoding: data, as: UTF8.self) : nil
    }
}

@Suite struct FilesTests {
    /// Known answers: RFC 3720, appendix B.4, and the check value of the CRC catalogue.
    @Test func checksumsAreCRC32C() {
        #expect(Checksum(of: Array("123456789".utf8)).description == "e3069283")
        #expect(Checksum(of: [UInt8](repeating: 0, count: 32)).value == 0x8A91_36AA)
        #expect(Checksum(of: [UInt8](repeating: 0xFF, count: 32)).value == 0x62A8_AB43)
        #expect(Checksum(of: (0..<32).map { $0 }).value == 0x46DD_794E)
        #expect(Checksum().value == 0)
        var parts = Checksum()
        Array("1234567".utf8).withUnsafeBytes { parts.update($0) }
        Array("89".utf8).withUnsafeBytes { parts.update($0) }
        #expect(parts.value == 0xE306_9283)
    }

    @Test func directoriesAppearComplete() throws {
        let directory = TemporaryDirectory()
        let destination = directory.path + "/step-1"
        for content in ["first", "second"] {
            let writing = try AtomicDirectory(destination, token: "t")
            #expect(directory.names().contains("step-1.partial-t"))
            directory.file("step-1.partial-t/data", content)
            try ChecksumManifest(ofFilesIn: writing.path).write(to: writing.path)
            try writing.commit()
            #expect(directory.names() == ["step-1"])
            #expect(directory.bytes("step-1/data") == Array(content.utf8))
            try ChecksumManifest(readingFrom: destination).verify(in: destination)
        }
        do { _ = try AtomicDirectory(directory.path + "/abandoned") }
        #expect(directory.names() == ["step-1"])
    }

    @Test func leftoversGoAndTheOldCopyReturns() throws {
        let directory = TemporaryDirectory()
        for name in ["a.partial-77", "b.partial-replaced", "b", "c.partial-replaced"] {
            try FileManager.default.createDirectory(
                atPath: "\(directory.path)/\(name)", withIntermediateDirectories: true)
        }
        directory.file("c.partial-replaced/old", "x")
        try AtomicDirectory.removeLeftovers(in: directory.path)
        #expect(directory.names() == ["b", "c"])
        #expect(directory.bytes("c/old") == Array("x".utf8))
    }

    @Test func manifestsNoticeChanges() throws {
        let directory = TemporaryDirectory()
        let path = directory.path + "/m"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        directory.file("m/a", "content")
        let manifest = try ChecksumManifest(ofFilesIn: path)
        try manifest.write(to: path)
        directory.file("m/a", "contenT")
        #expect(
            message(in: directory) { try manifest.verify(in: path) }.hasPrefix("m/a: checksum mismatch: manifest says ")
        )
        directory.file("m/a", "cont")
        #expect(
            message(in: directory) { try manifest.verify(in: path) }
                .hasPrefix("m/a: truncated: expected 7 bytes, found 4;"))
        directory.file("m/manifest.json", "{\"files\": 3}")
        #expect(
            message(in: directory) { _ = try ChecksumManifest(readingFrom: path) }
                == "m/manifest.json: has no list 'files'")
    }

    @Test func fullDisksAreReported() {
        guard FileManager.default.fileExists(atPath: "/dev/full") else { return }
        let got = message {
            let writer = try SafeTensorsWriter("/dev/full", entries: [.init(name: "w", shape: [1])])
            try writer.write("w", [Float(1)])
            try writer.finish()
        }
        #expect(got == "/dev/full: cannot write: no space left on the device; free some or write elsewhere")
    }

    @Test(arguments: [
        ("{\"a\":[1,-2.5,true,null,\"x\\n\\u00e9\\ud83d\\ude00\"]}", "{\"a\":[1,-2.5,true,null,\"x\\né😀\"]}"),
        (" [ ] ", "[]"), ("1e3", "1000.0"),
    ])
    func jsonReadsAndWrites(text: String, compact: String) throws {
        let value = try JSON(parsing: Array(text.utf8))
        #expect(value.text == compact)
        #expect(try JSON(parsing: Array(value.indentedText.utf8)) == value)
    }

    @Test(arguments: [
        "", "{", "[1,]", "{\"a\" 1}", "\"\\ud800\"", "01x", "tru", "1 2", "\"a", "{\"a\":1,\"a\":2}", "nan",
    ])
    func badJSONIsRefused(text: String) {
        #expect(message { _ = try JSON(parsing: Array(text.utf8)) }.hasPrefix("invalid JSON at byte "))
    }
}
