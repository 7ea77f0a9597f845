public typealias P = UnsafePointer<Float>
public typealias M = UnsafeMutablePointer<Float>
public final class ThreadPool { public let threadCount: Int; public init(threadCount: Int) { self.threadCount = threadCount } }
public enum GEMM {
  public static func multiply(_ a: P, transposeA: Bool = false, lda: Int, _ b: P, transposeB: Bool = false, ldb: Int, m: Int, n: Int, k: Int, accumulate: Bool, bias: P? = nil, into c: M, ldc: Int, threads: ThreadPool) {}
  public static func measurePeak() -> Double { 0 }
}
public struct KernelVariant: Sendable { public static let current = KernelVariant(); public var description: String { "" }; public var startupReport: String { "" } }
public enum Elementwise {
  public static func add(_ a: P, _ b: P, into: M, count: Int, threads: ThreadPool) {}
  public static func addInPlace(_ a: M, _ b: P, count: Int, threads: ThreadPool) {}
  public static func columnSums(_ a: P, rows: Int, columns: Int, accumulate: Bool, into: M, threads: ThreadPool) {}
}
public enum Activations {
  public static func swiGLU(gate: P, up: P, into: M, count: Int, threads: ThreadPool) {}
  public static func swiGLUGradient(gate: P, up: P, dy: P, dGate: M, dUp: M, count: Int, threads: ThreadPool) {}
  public static func gelu(_ x: P, into: M, count: Int, tanhForm: Bool, threads: ThreadPool) {}
  public static func geluGradient(_ x: P, dy: P, into: M, count: Int, tanhForm: Bool, threads: ThreadPool) {}
}
public enum Embedding {
  public static func gather(_ ids: UnsafePointer<Int32>, count: Int, table: P, width: Int, into: M, threads: ThreadPool) {}
  public static func scatterAdd(_ ids: UnsafePointer<Int32>, count: Int, gradient: P, width: Int, into: M, threads: ThreadPool) {}
}
public enum CrossEntropy {
  public static func lossAndGradient(logits: M, targets: UnsafePointer<Int32>, rows: Int, vocabulary: Int, scale: Float, loss: M, threads: ThreadPool) {}
  public static func loss(logits: P, targets: UnsafePointer<Int32>, rows: Int, vocabulary: Int, loss: M, threads: ThreadPool) {}
}
