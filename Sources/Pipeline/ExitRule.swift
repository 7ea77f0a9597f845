/// When generation stops applying a shared block to a token before all applications have run.
///
/// After each of them, with `s` the state and `p` what the layers behind the group and the head make of it:
///
/// | criterion | met when | default threshold |
/// | --- | --- | --- |
/// | `latent_change` | `‖s_i − s_{i−1}‖ / ‖s_i‖ < threshold` | 0.03 |
/// | `cosine` | `1 − cos(s_i, s_{i−1}) < threshold` | 0.001 |
/// | `entropy_change` | `\|H(p_i) − H(p_{i−1})\| < threshold` | 0.001 |
/// | `kl` | `KL(p_{i−1} ‖ p_i) < threshold` | 0.001 |
/// | `min_kl` | the same, where what is less likely than a tenth of the likeliest counts as `1/V` | 0.00001 |
/// | `argmax_stable` | the likeliest token has stayed for `threshold` applications | 5 |
/// | `confidence` | `max p_i > threshold` | 0.9 |
///
/// Sources: arXiv 2502.05171 and its code; `confidence`, for models with exits, arXiv 2410.20672. Tokens of a prompt that
/// come together go all the way.
public struct ExitRule: Sendable, Equatable {
    public enum Criterion: String, CaseIterable, Sendable {
        case latentChange = "latent_change"
        case cosine
        case entropyChange = "entropy_change"
        case kl
        case minKL = "min_kl"
        case argmaxStable = "argmax_stable"
        case confidence

        /// Whether it looks at predictions, not only at the state.
        public var asksHead: Bool { self != .latentChange && self != .cosine }

        public var usualThreshold: Double {
            switch self {
            case .latentChange: 0.03
            case .cosine, .entropyChange, .kl: 1e-3
            case .minKL: 1e-5
            case .argmaxStable: 5
            case .confidence: 0.9
            }
        }
    }

    /// What later tokens find of one that has left, in the applications that it left out.
    public enum Cache: String, CaseIterable, Sendable {
        /// Nothing: every application has its own keys and values, of the tokens that came so far.
        case full
        /// The keys and values of the last application of the same layer that the token went through.
        case latest
    }

    public var criterion: Criterion
    public var threshold: Double
    public var cache: Cache
    /// Applications that every token goes through.
    public var minimum: Int
    /// How many applications' keys, values and states are kept: application `i` reads and overwrites those of slot `i mod slots`
    /// (`compress-s` in the code of arXiv 2502.05171). Nil keeps those of every application.
    public var slots: Int?

    /// - Parameter threshold: nil is the usual one.
    public init(
        _ criterion: Criterion, threshold: Double? = nil, cache: Cache = .latest, minimum: Int = 1, slots: Int? = nil
    ) {
        self.criterion = criterion
        self.threshold = threshold ?? criterion.usualThreshold
        self.cache = cache
        self.minimum = minimum
        self.slots = slots
    }
}
