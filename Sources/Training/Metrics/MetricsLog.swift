import Foundation

/// Appends one JSON object per line to `metrics.jsonl`. After a resume the lines of steps that will
/// be run again are cut away, so that every step stands there once.
public final class MetricsLog {
    private let handle: FileHandle

    /// - Parameter lastStep: the step the run continues from; later lines are dropped.
    public init(path: String, lastStep: Int) throws {
        var kept = Data()
        if let old = FileManager.default.contents(atPath: path) {
            for line in old.split(separator: UInt8(ascii: "\n")) {
                // A line cut short by a crash does not parse, and goes.
                guard let object = try? JSONSerialization.jsonObject(with: Data(line)) as? [String: Any],
                    let step = object["step"] as? Int, step <= lastStep
                else { continue }
                kept.append(contentsOf: line)
                kept.append(UInt8(ascii: "\n"))
            }
        }
        try kept.write(to: URL(fileURLWithPath: path), options: .atomic)
        handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        try handle.seekToEnd()
    }

    /// Writes `fields` in the given order, as one line.
    public func append(_ fields: [JSON.Member]) throws {
        try handle.write(contentsOf: Data((JSON.object(fields).text + "\n").utf8))
    }

    deinit { try? handle.close() }
}
