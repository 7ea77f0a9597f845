import Autograd
import Kernels
import Tensors

/// JRT-RNN, prefix linear attention: `based` whose memory has read the first `n` tokens before the first of them asks.
///
/// `S_0 = Σ_{j<n} φ(k^e_j) v^e_jᵀ`, `z_0 = Σ_{j<n} φ(k^e_j)` with `k^e`, `v^e` of an encoder's own projections; from there
/// ``BasedMixer`` over all tokens, those of the prefix included. So a token of the prefix sees all of the prefix, and a later
/// one all that came before it: what is to be predicted should lie behind the prefix.
///
/// Keys: those of `based`, and `enc_length` `n` (0: `based`; a shorter sequence is all prefix).
/// Parameters: those of `based`, `mixer.proj_k_enc.weight [H·f, D]`, `mixer.proj_v_enc.weight [D, D]`: `3D(Hf + D)`.
/// Carry: that of `based`. The prefix is the start of the first piece of a sequence, of a prompt when text is generated.
/// Cost per token: that of `based`, and `2D(Hf + D) + 2HFV` for each token of the prefix.
/// Train it with `train.objective: { type: prefix, length: n }`, which leaves what the prefix shows of itself out of the loss.
/// Source: arXiv 2407.05483.
public final class JRTMixer: SequenceMixer {
    public static let name = "jrt"

    private let prefixLength: Int
    private let decoder: BasedMixer
    private let key, value: Linear
    public let outputWidth: Int

    public init(_ reader: ConfigurationReader, _ builder: LayerBuilder) throws(ConfigurationError) {
        let width = builder.inputWidth
        outputWidth = width
        prefixLength = try reader.int("enc_length", default: nil, in: 0...1_000_000_000)
        decoder = try BasedMixer(reader, builder)
        key = Linear("mixer.proj_k_enc", width, decoder.headCount * decoder.featureSize, bias: false, builder)
        value = Linear("mixer.proj_v_enc", width, width, bias: false, builder)
    }

    public var chunkingObstacle: String? {
        prefixLength == 0 ? nil : "jrt reads a prefix of \(prefixLength) tokens as a whole before its first output"
    }
    public var lookahead: Lookahead { prefixLength == 0 ? .none : .prefix(prefixLength) }
    public var streamStateNames: [String] { prefixLength == 0 ? decoder.streamStateNames : [] }

    public func forward(_ x: Variable, carry: Carry, _ pass: Pass) -> (Variable, Carry) {
        let isStart = carry.isEmpty && prefixLength > 0
        return decoder.forward(x, carry: isStart ? encoded(x, pass) : carry, pass)
    }

    /// The decoder's state after the prefix of every sequence.
    private func encoded(_ x: Variable, _ pass: Pass) -> Carry {
        let (tape, time) = (pass.tape, min(prefixLength, pass.time))
        var prefix = x
        if time < pass.time {
            let rows = (0..<pass.batch * time).map { Int32($0 / time * pass.time + $0 % time) }
            prefix = tape.gathered(x, columns: 0..<outputWidth, rows: rows)
        }
        let state = tape.matrixMemoryState(
            key: Columns(key(prefix, tape)), value: Columns(value(prefix, tape)), past: MatrixMemoryState(),
            decoder.shape(batch: pass.batch, time: time))
        return decoder.carryTensors(state)
    }

    public func flopsPerToken(time: Int) -> Double {
        let memory = 2 * decoder.headCount * decoder.featureWidth * decoder.valueWidth
        let encoder = 2 * outputWidth * (decoder.headCount * decoder.featureSize + outputWidth) + memory
        return decoder.flopsPerToken(time: time) + Double(encoder) * Double(min(prefixLength, time)) / Double(time)
    }

    /// As if every token were in the prefix.
    public var savedPerToken: Int {
        prefixLength == 0 ? decoder.savedPerToken : 2 * decoder.savedPerToken + outputWidth
    }
}
