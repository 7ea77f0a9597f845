import Foundation
import Training

/// A directory that goes away with the test.
final class TemporaryDirectory {
    let path: String

    init() {
        path = NSTemporaryDirectory() + "seqtrain-tests-" + UUID().uuidString
        try! FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Writes a file and returns its path.
    @discardableResult
    func file(_ name: String, _ text: String) -> String { file(name, Array(text.utf8)) }

    @discardableResult
    func file(_ name: String, _ bytes: [UInt8]) -> String {
        _ = FileManager.default.createFile(atPath: "\(path)/\(name)", contents: Data(bytes))
        return "\(path)/\(name)"
    }

    func bytes(_ name: String) -> [UInt8] { Array(FileManager.default.contents(atPath: "\(path)/\(name)") ?? Data()) }

    func names() -> [String] { ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted() }
}

/// The description of the error that `body` throws, with the temporary directory cut out.
func message(in directory: TemporaryDirectory? = nil, _ body: () throws -> Void) -> String {
    do {
        try body()
        return "no error"
    } catch {
        let text = "\(error)"
        return directory.map { text.replacingOccurrences(of: $0.path + "/", with: "") } ?? text
    }
}

/// Real data for the tests that read it; those tests skip where it is absent.
enum SharedData {
    static let directory: String =
        ProcessInfo.processInfo.environment["SEQTRAIN_TEST_DATA"]
        ?? URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../../shared/data")
        .standardizedFileURL.path

    static func has(_ name: String) -> Bool { FileManager.default.fileExists(atPath: "\(directory)/\(name)") }
}
