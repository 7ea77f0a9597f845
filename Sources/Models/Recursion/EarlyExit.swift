/// Losses at the end of every recursion, so that a model can be used with fewer of them (arXiv 2410.20672, section 3.3).
///
/// The state after recursion `r` goes through the blocks behind the group, the final norm and the head, all shared with the
/// last recursion's: `loss = Σ_r α_r CE_r`. Keys of `early_exit:` in `recursion:`
/// - `mode`: `uniform` (default), `α_r = 1/R` | `weighted`, `α_r = r / (R (R + 1) / 2)` | `aggressive`, `α_r = coefficient`
///   but for `α_R = 1`.
/// - `coefficient` (0.1): of `aggressive`.
/// - `distillation` (0): `λ` of `(1 − λ) CE_r + λ KL(p_R ‖ p_r)` in place of `CE_r`, `r < R`, with `p_R` a constant.
///
/// Terms: `exit_r = α_r (1 − λ) CE_r` and, with distillation, `exit_r_distillation = α_r λ KL`; all are means over the
/// counted tokens of the batch. `CE_R` is the loss that is reported.
public struct EarlyExit: Sendable {
    enum Mode: String, CaseIterable { case uniform, weighted, aggressive }

    /// `λ`.
    let distillation: Double
    /// `α_r`, by recursion.
    let weights: [Double]

    /// - Parameter count: of recursions.
    init(_ reader: ConfigurationReader, count: Int) throws(ConfigurationError) {
        let mode: Mode = try reader.choice("mode", default: .uniform)
        let coefficient = try reader.double("coefficient", default: 0.1, in: 0...1e6)
        distillation = try reader.double("distillation", default: 0, in: 0...1)
        weights = (1...count).map { r in
            switch mode {
            case .uniform: 1 / Double(count)
            case .weighted: Double(r) / Double(count * (count + 1) / 2)
            case .aggressive: r == count ? 1 : coefficient
            }
        }
    }

    /// Exits before the last recursion's.
    var count: Int { weights.count - 1 }

    /// The last recursion's cross-entropy, then by recursion what the others add, each with its factor.
    var terms: [(name: String, weight: Double)] {
        [("cross_entropy", weights.last!)]
            + weights.dropLast().enumerated().flatMap { index, weight in
                let name = "exit_\(index + 1)"
                let own = [(name, weight * (1 - distillation))]
                return distillation > 0 ? own + [("\(name)_distillation", weight * distillation)] : own
            }
    }
}

extension LayerStack {
    /// The blocks behind a group with exits once more for each of them, their parameters shared: all on the state that the
    /// recursion before left, which comes along a link, while the activation passes by on its way to the head.
    func appendExits() throws(ConfigurationError) {
        let head = nextIndex + coda.count * exitSources.count
        for source in exitSources {
            var from = source
            for (entry, prefix) in coda {
                links.append(LayerLink(from: from, to: nextIndex, port: .exit, width: width))
                from = nextIndex
                append(try Block(entry, builder(prefix, sharing: .all(isFirst: false)), isExit: true))
            }
            links.append(LayerLink(from: from, to: head, port: .exit, width: width))
        }
    }
}
