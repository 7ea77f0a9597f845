import Autograd
import Tensors

/// Maps `(x [B,T,D], carry in) → (y [B,T,D'], carry out)`.
///
/// Any mixer works on whole sequences, in chunks with a carry, and one token at a time; the three
/// agree. Adding one is a source file here, a test, a configuration under `configs/`, and a line in
/// `SequenceMixers.all`.
public protocol SequenceMixer: AnyObject, SendableMetatype {
    /// The name in configurations: `mixer: { type: <name> }`.
    static var name: String { get }

    /// Reads its own keys and declares its parameters. Does not call `reader.finish()`.
    init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError)

    /// Width `D'` of the output.
    var outputWidth: Int { get }

    /// Why the sequence axis cannot be cut into chunks, or nil when it can.
    var chunkingObstacle: String? { get }

    /// Which tokens after its own an output depends on. What a run may ask of a model follows from it: an output that
    /// has seen a token can be trained to predict it by looking it up.
    var lookahead: Lookahead { get }

    /// Names of the state that survives from batch to batch when the data are streams; empty when none does.
    var streamStateNames: [String] { get }

    /// - Parameters:
    ///   - x: `[B·T, D]`, row `b·T + t`.
    ///   - carry: state after the previous chunk; empty at a sequence's start.
    /// - Returns: `y [B·T, D']` and the state after the last token.
    func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry)

    /// Multiply-adds counted as two, forward, per token, at sequence length `time`.
    func flopsPerToken(time: Int) -> Double

    /// Floats kept per token for the backward pass.
    var savedPerToken: Int { get }

    /// Floats per sequence of a carry that grows with the `positions` behind it; 0 for a state of constant size,
    /// which is small beside what a chunk keeps.
    func growingCarry(positions: Int) -> Int
}

/// The tokens after its own that an output of a mixer depends on.
public enum Lookahead: Sendable, Equatable {
    /// None: the mixer is causal.
    case none
    /// Those among the first tokens of the sequence, as many as this: before and after it the mixer is causal.
    case prefix(Int)
    /// Any.
    case whole
}

extension SequenceMixer {
    public var lookahead: Lookahead { .none }
    public func growingCarry(positions: Int) -> Int { 0 }
}

/// The registry of mixers, alphabetical.
public enum SequenceMixers {
    public static let all: [any SequenceMixer.Type] = [
        AarenMixer.self,
        AttentionMixer.self,
        BasedMixer.self,
        BidirectionalMixer.self,
        DeltaNetMixer.self,
        DeltaProductMixer.self,
        FlashRNNMixer.self,
        GAMMixer.self,
        GatedDeltaNetMixer.self,
        GLAMixer.self,
        GRUMixer.self,
        HydraMixer.self,
        JRTMixer.self,
        LeakyRNNMixer.self,
        LightNetMixer.self,
        LinearAttentionMixer.self,
        LMUMixer.self,
        LRUMixer.self,
        LSSLMixer.self,
        LSTMMixer.self,
        MambaMixer.self,
        Mamba2Mixer.self,
        MegaMixer.self,
        MinGRUMixer.self,
        MinLSTMMixer.self,
        MLSTMMixer.self,
        ParaRNNGRUMixer.self,
        ParaRNNLSTMMixer.self,
        RetNetMixer.self,
        RecurrentHighwayMixer.self,
        RNNMixer.self,
        RWKV4ChannelMixer.self,
        RWKV4TimeMixer.self,
        S4Mixer.self,
        S4DMixer.self,
        S5Mixer.self,
        SGConvMixer.self,
        SLSTMMixer.self,
        TCNCAMixer.self,
    ]

    /// - Throws: an error at the `type` key that lists the known mixers.
    static func make(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError)
        -> any SequenceMixer
    {
        let name = try reader.choice("type", of: all.map { $0.name }, default: nil)
        let type = all.first { $0.name == name }!
        return try type.init(reader, builder)
    }
}
