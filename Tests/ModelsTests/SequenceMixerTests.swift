import Foundation
import Models
import Testing

/// What holds for the registry as a whole; each mixer's own tests are in `SequenceMixers/`.
@Suite struct SequenceMixerTests {
    /// Every `MixerCase` in the folder beside this file, by the type it names.
    @Test func everyRegisteredMixerHasACase() throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "SequenceMixers")
        var types: Set<String> = []
        for file in try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil) {
            let text = try String(contentsOf: file, encoding: .utf8)
            guard text.contains("checkAll()") else { continue }
            for match in text.matches(of: /MixerCase\(\s*"(\w+)"/) { types.insert(String(match.1)) }
        }
        #expect(types == Set(SequenceMixers.all.map { $0.name }))
    }

    @Test func everyRegisteredMixerHasAPageAndAConfiguration() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: root.appending(path: path).path) }
        let page = try String(contentsOf: root.appending(path: "docs/mixers.md"), encoding: .utf8)
        let entries = page.matches(of: /\[`(\w+)`\]\(\.\.\/(Sources[^)]*)\)/)
        #expect(entries.map { String($0.1) }.sorted() == SequenceMixers.all.map { $0.name })
        for entry in entries {
            #expect(exists(String(entry.2)), "\(entry.2)")
            #expect(exists("configs/mixers/\(entry.1).yaml"), "\(entry.1)")
        }
    }

    @Test func theRegistryIsAlphabetical() {
        let names = SequenceMixers.all.map { $0.name }
        #expect(names == names.sorted())
    }
}
