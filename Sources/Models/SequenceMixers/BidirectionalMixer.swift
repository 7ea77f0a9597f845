import Autograd
import Tensors

/// Any causal mixer in both directions of time: one copy reads the sequence as it stands, one reads it backwards, and their
/// outputs at a position, which together have seen the whole sequence, are merged.
///
/// Keys: `mixer` (the section of the mixer), `merge` (`concat` | `sum` | `linear`; the last is a linear map of both, back to the
/// mixer's width). Parameters: those of the mixer under `mixer.fwd.` and `mixer.bwd.`, and `mixer.merge.weight [D', 2·D']`,
/// `mixer.merge.bias` for `linear`: twice the mixer's (+ 2·D'² + D'). No carry: nothing can be known of a token before the last
/// has been read. Twice the mixer's FLOPs a token (+ 4·D'²).
public final class BidirectionalMixer: SequenceMixer {
    public static let name = "bidirectional"

    public let outputWidth: Int
    public let chunkingObstacle: String? = "a bidirectional layer needs the whole sequence"
    public let lookahead = Lookahead.whole
    public let streamStateNames: [String] = []
    private let forwards, backwards: any SequenceMixer
    private let merge: Merge
    private let mergeWeight: Linear?

    private enum Merge: String, CaseIterable { case concat, sum, linear }

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        merge = Merge(
            rawValue: try reader.choice("merge", of: Merge.allCases.map(\.rawValue), default: Merge.concat.rawValue))!
        let inner = try reader.section("mixer")
        forwards = try SequenceMixers.make(inner, builder.nested("fwd"))
        backwards = try SequenceMixers.make(inner, builder.nested("bwd"))
        try inner.finish()
        let width = forwards.outputWidth
        outputWidth = merge == .concat ? 2 * width : width
        mergeWeight = merge == .linear ? Linear("mixer.merge", 2 * width, width, bias: true, builder) : nil
    }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let tape = pass.tape
        func reversed(_ x: Variable) -> Variable { tape.reversedInTime(x, batch: pass.batch, time: pass.time) }
        let (ahead, _) = forwards.forward(x, carry: [], pass)
        let (back, _) = backwards.forward(reversed(x), carry: [], pass)
        let behind = reversed(back)
        switch merge {
        case .concat: return (tape.concatenateColumns(ahead, behind), [])
        case .sum: return (tape.add(ahead, behind), [])
        case .linear: return (mergeWeight!(tape.concatenateColumns(ahead, behind), tape), [])
        }
    }

    public func flopsPerToken(time: Int) -> Double {
        forwards.flopsPerToken(time: time) + backwards.flopsPerToken(time: time)
            + (mergeWeight == nil ? 0 : Double(4 * outputWidth * outputWidth))
    }

    public var savedPerToken: Int {
        forwards.savedPerToken + backwards.savedPerToken + forwards.outputWidth * (merge == .sum ? 2 : 4)
    }
}
