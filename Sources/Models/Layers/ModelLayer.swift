import Autograd

/// What enters a layer: token ids for the first, an activation `[B·T, D]` for the others.
public enum LayerInput {
    case tokens(UnsafePointer<Int32>)
    case activation(Variable)
}

/// A position in the list that the pipeline cuts: the embedding, a block, or the head.
public protocol ModelLayer: AnyObject {
    /// Canonical prefix, for messages.
    var name: String { get }
    /// Use-sites of parameters, in order of application.
    var uses: [ParameterUse] { get }
    var outputWidth: Int { get }
    /// Multiply-adds counted as two, forward, per token, at sequence length `time`.
    func forwardFLOPsPerToken(time: Int) -> Double
    /// As above for the whole backward pass.
    func backwardFLOPsPerToken(time: Int) -> Double
    /// Floats kept per token between forward and backward, outputs included.
    var savedPerToken: Int { get }
    /// Floats per sequence of a carry that grows with the `positions` behind it.
    func growingCarry(positions: Int) -> Int
    /// Why the sequence axis cannot be cut into chunks, or nil when it can.
    var chunkingObstacle: String? { get }
}

extension ModelLayer {
    public func backwardFLOPsPerToken(time: Int) -> Double { 2 * forwardFLOPsPerToken(time: time) }
    public var chunkingObstacle: String? { nil }
    public func growingCarry(positions: Int) -> Int { 0 }
}
