import Autograd

/// A position in the list that the pipeline cuts: the embedding, a hidden layer, or the head.
public protocol ModelLayer: AnyObject {
    /// Canonical prefix, for messages.
    var name: String { get }
    /// Use-sites of parameters, in order of application.
    var uses: [ParameterUse] { get }
    var outputWidth: Int { get }
    /// Multiply-adds counted as two, forward, per token of the sequence, at sequence length `time`.
    func forwardFLOPsPerToken(time: Int) -> Double
    /// As above for the whole backward pass.
    func backwardFLOPsPerToken(time: Int) -> Double
    /// Floats kept per token of the sequence between forward and backward, outputs included.
    var savedPerToken: Int { get }
    /// Floats per token at hand while it runs, which it may keep, recompute or drop.
    var workPerToken: Int { get }
    /// Floats per sequence of a carry that grows with the `positions` behind it.
    func growingCarry(positions: Int) -> Int
    /// Why the sequence axis cannot be cut into chunks, or nil when it can.
    var chunkingObstacle: String? { get }
    /// Which tokens after its own an output depends on.
    var lookahead: Lookahead { get }
    /// Share of the steps that run it; the others pass the activation on.
    var runShare: Double { get }
    /// Whether it never has gradients, so that a stage of such layers needs no backward.
    var isForwardOnly: Bool { get }
    /// Names of what the layer adds to the loss beside the cross-entropy.
    var auxiliaryTerms: [String] { get }
    /// Names of what the layer tells of itself in evaluation.
    var statisticTerms: [String] { get }
    /// What else follows from these, given their means over an evaluation.
    func derivedStatistics(_ means: [Double]) -> [(term: String, value: Double)]
    /// Whether its output stands for some of the tokens only, which a selection names.
    var routesTokens: Bool { get }
    /// Rows of each sequence in the output for `time` tokens, on average, for estimates.
    func outputTime(_ time: Int) -> Int
    /// Rows of each sequence in the output of a pass, at most.
    func largestOutputTime(in pass: Pass) -> Int
}

extension ModelLayer {
    public func backwardFLOPsPerToken(time: Int) -> Double { 2 * forwardFLOPsPerToken(time: time) }
    public var chunkingObstacle: String? { nil }
    public var lookahead: Lookahead { .none }
    public func growingCarry(positions: Int) -> Int { 0 }
    public var runShare: Double { 1 }
    public var isForwardOnly: Bool { false }
    public var workPerToken: Int { savedPerToken }
    public var auxiliaryTerms: [String] { [] }
    public var statisticTerms: [String] { [] }
    public func derivedStatistics(_ means: [Double]) -> [(term: String, value: Double)] { [] }
    public var routesTokens: Bool { false }
    public func outputTime(_ time: Int) -> Int { time }
    public func largestOutputTime(in pass: Pass) -> Int { pass.time }
}

/// A layer between embedding and head.
public protocol HiddenLayer: ModelLayer {
    /// - Parameters:
    ///   - flow: what the layer before put out, and what came along links to this one.
    ///   - carry: state after the previous chunk; empty at a sequence's start.
    /// - Returns: the output with what leaves along links, and the state after the last token.
    func forward(_ flow: Flow, carry: Carry, _ pass: Pass) -> (Flow, Carry)
}
