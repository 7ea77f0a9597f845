import Foundation
import Models
import Pipeline
public struct DataConfiguration { let path: String
 init(_ r: ConfigurationReader, baseDirectory: String) throws(ConfigurationError) { path = try r.stringList("text")[0]; _ = try r.string("format", default: "bytes"); _ = try r.doubleList("split", default: [0.9,0.1]); _ = try r.string("sampling", default: "random") } }
public struct Vocabulary: Sendable { public let size = 256; public init() {}; init(json: String) throws {}
 var json: String { "{}" }; var hash: String { "h" }
 func requireMatch(_ o: Vocabulary) throws {}
 func encode(_ s: String) throws -> [Int32] { s.utf8.map { Int32($0) } }
 func decode(_ i: [Int32]) -> String { String(decoding: i.map { UInt8($0 & 255) }, as: UTF8.self) } }
public final class DataSet { public let vocabulary = Vocabulary(); let b: [UInt8]; let B: Int, T: Int; public let isStream = false
 init(_ c: DataConfiguration, batchSize: Int, sequenceLength: Int, seed: UInt64) throws { b = [UInt8](try Data(contentsOf: URL(fileURLWithPath: c.path))); B = batchSize; T = sequenceLength }
 func batch(_ r: (Int) -> Int) -> TokenBatch { var i: [Int32] = [], t: [Int32] = []; for s in 0..<B { let p = r(s); for j in 0..<T { i.append(Int32(b[p+j])); t.append(Int32(b[p+j+1])) } }
  return TokenBatch(rows: B, time: T, inputs: i, targets: t, restarts: Array(repeating: true, count: B)) }
 public func trainingBatch(step: Int) throws -> TokenBatch { var g = UInt64(step) &* 0x9E3779B97F4A7C15; let n = b.count * 9 / 10 - T - 1; return batch { _ in g = g &* 6364136223846793005 &+ 1442695040888963407; return Int(g >> 33) % n } }
 public func validationBatches(limit: Int?) -> [TokenBatch] { (0..<(limit ?? 4)).map { k in batch { s in b.count * 9 / 10 + (k * B + s) * T } } }
 public func evaluationBatches(split: String) throws -> [TokenBatch] { validationBatches(limit: 4) } }
