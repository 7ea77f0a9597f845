import Pipeline
import TestSupport

/// A model that spends depth and a cut of its batches, drawn at random; everything that P1 says does not show in the
/// result is drawn apart from it (`layout`).
struct RandomRecursion: CustomStringConvertible {
    private(set) var fixture: RunFixture
    /// Batches continue each other.
    private(set) var isStream = false
    private var random: SplitMix
    private var formsRings = true

    var description: String { fixture.text }

    init(seed: Int) {
        random = SplitMix(state: UInt64(seed))
        fixture = RunFixture(model: "")
        let (group, isSequential) = group()
        var lines = ["vocabulary_size: 29", "width: 8", "layers:"]
        for _ in 0..<random.below(3) { lines.append("  - \(layer())") }
        lines += group.map { "  \($0)" }
        for _ in 0..<random.below(3) { lines.append("  - \(layer())") }
        if random.below(2) == 0 { lines.insert("dropout: 0.1", at: 2) }
        if random.below(2) == 0 { lines.insert("tie_embeddings: true", at: 2) }
        if random.below(4) == 0 { lines.insert("positions: none", at: 2) }
        if random.below(3) == 0 {
            let from = random.below(5)
            lines.insert("skips: [{ from: \(from), to: \(from + 2 + random.below(6)) }]", at: 2)
        }
        fixture.model = lines.joined(separator: "\n")
        fixture.batch = 1 + random.below(6)
        fixture.time = 1 + random.below(14)
        fixture.parallel = [
            "micro_batches": "\(1 + random.below(fixture.batch))",
            "chunks": isSequential && random.below(2) == 0 ? "\(1 + random.below(min(4, fixture.time)))" : "1",
        ]
        fixture.optimizer = pick(["{ type: adamw, clip_norm: 0.5 }", "{ type: sgd, momentum: 0.9, clip_norm: null }"])
        isStream = random.below(3) == 0
    }

    private mutating func pick<Choice>(_ choices: [Choice]) -> Choice { choices[random.below(choices.count)] }

    private mutating func flag() -> Bool { random.below(2) == 0 }

    /// - Returns: a recursive group, and whether its sequences may be cut into chunks.
    private mutating func group() -> (lines: [String], isSequential: Bool) {
        let count = 2 + random.below(3)
        var keys = ["count: \(count)"]
        var isSequential = true
        switch random.below(8) {
        case 0:
            keys += ["sharing: sequence"]
            formsRings = false
        case 1: break
        case 2:
            let signals = "position: \(pick(["t2t", "paper", "none"])), step: \(pick(["learned", "sinusoid", "none"]))"
            keys += ["signals: { \(signals) }"]
        case 3:
            keys += [
                "halting: { type: \(pick(["basic", "accumulated"])), bias: \(pick([-1, 0, 1])), loss_weight: 0.1 }"
            ]
            isSequential = false
        case 4:
            let (mean, last) = (1 + random.below(4), 1 + random.below(3))
            var depth = "mean: \(mean), backpropagated: \(last)"
            if flag() { depth += ", maximum: \(mean + random.below(5))" }
            if random.below(4) == 0 { depth = "mean: \(mean), backpropagated: \(last), sampling: fixed" }
            if flag() { depth += ", final_norm: false" }
            keys = ["depth: { \(depth) }", "injection: \(pick(["linear", "add"]))"]
            if flag() { keys.append("state: zero") }
        case 5, 6:
            var router = "type: expert"
            router += pick(["", ", capacity_warmup_steps: 3"])
            router += pick(["", ", sampling: aux_router", ", sampling: none", ", random: true"])
            router += pick(["", ", gating: additive", ", gate: tanh", ", gate: none"])
            router += pick(["", ", z_loss: 0.1", ", network: mlp", ", share_attention: false"])
            if flag() {
                let capacities = (0..<count).map { _ in 1 + random.below(10) }.sorted(by: >)
                router += ", capacity: \(capacities.map { Double($0) / 10 })"
            }
            keys.append("router: { \(router) }")
            isSequential = false
        default:
            var router = "type: token"
            router += pick(["", ", balancing: loss_free, bias_step: 0.05", ", balance_warmup_steps: 2, coefficient: 1"])
            router += pick(["", ", gating: additive", ", gate: sigmoid, alpha: 1", ", gate_at: every"])
            router += pick(["", ", z_loss: 0.1", ", network: wide_mlp", ", temperature: 1e30", ", random: true"])
            keys.append("router: { \(router) }")
            isSequential = false
        }
        let isDepth = keys[0].hasPrefix("depth")
        let isAttention = !isDepth && random.below(3) == 0
        if isAttention, flag() { keys.append("share_key_values: true") }
        if !isDepth, flag() { keys.append("share_norms: false") }
        if !isDepth, random.below(3) == 0 {
            keys.append("relaxation: { rank: 2, targets: [q_proj, v_proj, up_proj] }")
        }
        let layers = (0..<1 + random.below(3)).map { _ in
            isAttention ? "{ mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }" : layer()
        }
        let lines = ["- recursion: { \(keys.joined(separator: ", ")) }", "  layers:"] + layers.map { "    - \($0)" }
        return (lines, isSequential)
    }

    private mutating func layer() -> String {
        let mixers = [
            "{ type: attention, head_count: 2 }", "{ type: attention, head_count: 2, kv_head_count: 1 }",
            "{ type: lstm }", "{ type: gru }", "{ type: mingru }", "{ type: mamba2, head_size: 8 }",
            "{ type: gated_deltanet, head_count: 2 }", "{ type: slstm, head_count: 2 }",
            "{ type: mlstm, head_count: 2 }",
            "{ type: rwkv4_time_mix }", "{ type: s4d }",
        ]
        let mlp = pick(["", ", mlp: { hidden_size: 10 }", ", mlp: { type: relu, hidden_size: 6 }"])
        let norm = pick(["", "", ", norm_placement: sandwich", ", norm: layernorm"])
        return "{ mixer: \(pick(mixers))\(mlp)\(norm) }"
    }

    /// Ranks and `parallel` keys that do not show in the result, or are refused.
    mutating func layout() -> (ranks: Int, eagerLimit: Int, settings: [String: String]) {
        var ranks = 1 + random.below(4)
        let isRing = formsRings && flag()
        let names = ScheduleCatalog.names.filter {
            ScheduleCatalog.placementKinds($0).contains(.ring) || !isRing
        }
        let name = pick(names)
        var settings = ["schedule": name, "threads": "\(1 + random.below(2))"]
        settings["rematerialize"] = pick(["never", "always", "except_last"])
        if isRing {
            settings["placement"] = "ring"
            if random.below(3) == 0 { settings["rings"] = "\(1 + random.below(3))" }
            if random.below(8) == 0 { ranks = 6 }
        } else if ScheduleCatalog.placementKind(name) == .interleaved, flag() {
            settings["virtual_stages"] = "\(1 + random.below(4))"
        }
        return (ranks, flag() ? 4096 : -1, settings)
    }
}
