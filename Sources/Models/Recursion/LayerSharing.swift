import Autograd
import Tensors

extension ParameterUse {
    /// Whether it belongs to a low-rank correction.
    var isCorrection: Bool { parameter.name.contains(".lora_") }
}

/// How one application of a shared block names and shares its parameters.
public struct LayerSharing {
    /// Whether this is the first application, which declares what the others reuse.
    let isFirst: Bool
    /// Prefix of what this application has for itself.
    let ownPrefix: String
    /// Name beginnings of parameters that are not shared.
    let unshared: [String]
    let relaxation: Relaxation?
    let keyValues: KeyValueUse
    /// In a group with routers, how many tokens of a sequence come this far.
    let budget: TokenBudget?
    /// In a recurrent depth, the iteration.
    var lap: DepthLap? = nil

    /// Everything is shared.
    static func all(isFirst: Bool, lap: DepthLap? = nil) -> LayerSharing {
        LayerSharing(
            isFirst: isFirst, ownPrefix: "", unshared: [], relaxation: nil, keyValues: .own, budget: nil, lap: lap)
    }

    func isOwn(_ name: String) -> Bool { unshared.contains { name.hasPrefix($0) } }
}

/// Where the attention of an application has keys and values from, when a shared block keeps those of its first
/// recursion (arXiv 2507.10524, recursive key/value sharing).
enum KeyValueUse {
    /// Its own, for itself.
    case own
    /// Its own, which later applications borrow.
    case lent
    /// The first application's; there is no projection to keys and values.
    case borrowed
    /// The first application's, but its own at the positions that it works on.
    case updated
}

/// Depth-wise low-rank adaptation: every application of a shared matrix has a correction of its own (relaxed recursion,
/// arXiv 2410.20672).
struct Relaxation {
    /// At most the smaller side of a matrix is taken.
    let rank: Int
    let scale: Float
    let targets: Set<String>

    /// The matrices that can be relaxed: those of attention and of the MLP.
    static let names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    /// Keys of `relaxation:` `rank`, `scale` (2), `targets` (`[q_proj, v_proj]`).
    init(_ reader: ConfigurationReader) throws(ConfigurationError) {
        rank = try reader.int("rank", default: nil, in: 1...1_000_000)
        scale = Float(try reader.double("scale", default: 2, above: 0))
        let names = try reader.stringList("targets", default: ["q_proj", "v_proj"])
        for name in names where !Self.names.contains(name) {
            throw reader.error(
                "targets", "'\(name)' cannot be relaxed; choose from \(Self.names.joined(separator: ", "))")
        }
        targets = Set(names)
    }

    func adapts(_ name: String) -> Bool {
        let parts = name.split(separator: ".")
        return parts.count == 2 && (parts[0] == "self_attn" || parts[0] == "mlp") && targets.contains(String(parts[1]))
    }
}

/// `scale · (x Aᵀ) Bᵀ`; `W + scale · B A` is never formed. Names: `<matrix>.lora_A.weight [r, in]`, drawn from
/// U(±1/√in), and `<matrix>.lora_B.weight [out, r]`, which starts at zero. `2r(in + out)` FLOPs per token.
/// Source: arXiv 2106.09685.
struct LowRankUpdate {
    let down, up: ParameterUse
    let scale: Float
}
