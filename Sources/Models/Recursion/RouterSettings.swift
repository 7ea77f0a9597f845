import Autograd
import Glibc
import Tensors

/// Keys of `router:` in a `recursion:` section, which makes the group a mixture of recursions (arXiv 2507.10524): only
/// some tokens of a sequence go through each application of the block, as far as routers let them.
///
/// - `type`: `expert` (default), every recursion picks its tokens from those of the one before; `token`, every token
///   picks its number of recursions.
/// - `network`: `linear` (default) | `mlp` (hidden 2D) | `wide_mlp` (hidden 4D), without biases. `temperature` (1): the
///   router sees state ÷ temperature. `random` (false): logits are drawn from U(0, 1) instead, a baseline without losses.
/// - `gate`: `sigmoid` (of `expert`, default) | `tanh` | `none` (the logit itself, without `alpha`); `softmax` (of `token`,
///   default) | `sigmoid`. `alpha`: factor of the gate (0.1; 1 with `softmax`).
/// - `gating`: `weighted` (default), the block's output is added times the gate; `additive`, times 1.
/// - `z_loss` (0): coefficient of the loss term `router_z`.
///
/// Of `expert`:
/// - `capacity` (`(R − r) / R`): by recursion, the part of the whole sequence that it keeps: ⌊capacity · T⌋ tokens, at
///   least 1; not increasing. A recursion of capacity 1 keeps all tokens, in generation, too.
/// - `capacity_warmup_steps` (0): optimiser steps over which training's capacities fall from 1, by a cosine.
/// - `sampling`: how to find out in generation, which cannot rank a token against later ones, what would be kept.
///   `aux_loss` (default): the logit's sign, which a cross-entropy, term `router`, trains; `aux_router`: the sign that
///   a second router gives from the detached state, trained at ten times the rate; `none`: the logit's sign as it is.
/// - `coefficient` (0.001; 1 of `aux_router`): of that term.
/// - `share_attention` (true): false gives every recursion attention of its own, as the released code does.
/// - `update_keys` (false): with `share_key_values`, positions that a recursion works on have its own keys and values.
///
/// Of `token`:
/// - `balancing`: `loss` (default), term `balance`; `loss_free`: a bias on the choice, `router_bias`, that moves by
///   `bias_step` (0.001) against the load of the step before (arXiv 2408.15664).
/// - `coefficient` (0.1): of `balance`. `balance_scope`: `micro_batch` (default), which depends on its size, | `sequence`.
/// - `balance_warmup_steps` (0): optimiser steps in which every token takes all recursions.
/// - `gate_at`: `final` (default), gates act on a token's last recursion, | `every`.
struct RouterSettings {
    enum Kind: String, CaseIterable { case expert, token }
    enum Network: String, CaseIterable { case linear, mlp, wideMLP = "wide_mlp" }
    enum Gate: String { case sigmoid, tanh, none, softmax }
    enum Gating: String, CaseIterable { case weighted, additive }
    enum Sampling: String, CaseIterable { case auxLoss = "aux_loss", auxRouter = "aux_router", none }
    enum Balancing: String, CaseIterable { case loss, lossFree = "loss_free" }
    enum Scope: String, CaseIterable { case microBatch = "micro_batch", sequence }
    enum GatePlace: String, CaseIterable { case final, every }

    let kind: Kind
    let network: Network
    let isRandom: Bool
    let temperature: Float
    let gate: Gate
    let alpha: Float
    let gating: Gating
    let zLoss: Double
    /// Of `router`, or of `balance`.
    let coefficient: Double
    /// By recursion.
    let budgets: [TokenBudget]

    // Of expert choice.
    let sampling: Sampling
    let sharesAttention: Bool
    let updatesKeys: Bool

    // Of token choice.
    let balancing: Balancing
    let scope: Scope
    let biasStep: Float
    let balanceWarmupSteps: Int
    let gatePlace: GatePlace

    /// - Parameter count: of recursions.
    init(_ reader: ConfigurationReader, count: Int) throws(ConfigurationError) {
        kind = try reader.choice("type", default: .expert)
        let isExpert = kind == .expert
        network = try reader.choice("network", default: .linear)
        isRandom = try reader.bool("random", default: false)
        temperature = Float(try reader.double("temperature", default: 1, above: 0))
        let gates: [Gate] = isExpert ? [.sigmoid, .tanh, .none] : [.softmax, .sigmoid]
        gate = Gate(rawValue: try reader.choice("gate", of: gates.map(\.rawValue), default: gates[0].rawValue))!
        alpha = gate == .none ? 1 : Float(try reader.double("alpha", default: gate == .softmax ? 1 : 0.1, above: 0))
        gating = try reader.choice("gating", default: .weighted)
        zLoss = isRandom ? 0 : try reader.double("z_loss", default: 0, in: 0...1e6)
        let coefficientLimits = 0.0...1e6
        if isExpert {
            let warmup = try reader.int("capacity_warmup_steps", default: 0, in: 0...Int.max)
            budgets = try Self.capacities(reader, count).map {
                TokenBudget(share: $0, isExact: true, warmupSteps: $0 < 1 ? warmup : 0)
            }
            sampling = isRandom ? .none : try reader.choice("sampling", default: .auxLoss)
            coefficient =
                sampling == .none
                ? 0
                : try reader.double(
                    "coefficient", default: sampling == .auxRouter ? 1 : 0.001, in: coefficientLimits)
            sharesAttention = try reader.bool("share_attention", default: true)
            updatesKeys = try reader.bool("update_keys", default: false)
            (balancing, scope, biasStep, balanceWarmupSteps, gatePlace) = (.loss, .microBatch, 0, 0, .final)
        } else {
            budgets = (0..<count).map {
                TokenBudget(share: Double(count - $0) / Double(count), isExact: $0 == 0, warmupSteps: 0)
            }
            balancing = try reader.choice("balancing", default: .loss)
            if balancing == .loss {
                coefficient = isRandom ? 0 : try reader.double("coefficient", default: 0.1, in: coefficientLimits)
                scope = try reader.choice("balance_scope", default: .microBatch)
                biasStep = 0
            } else {
                (coefficient, scope) = (0, .microBatch)
                biasStep = Float(try reader.double("bias_step", default: 0.001, above: 0))
            }
            balanceWarmupSteps = try reader.int("balance_warmup_steps", default: 0, in: 0...Int.max)
            gatePlace = try reader.choice("gate_at", default: .final)
            (sampling, sharesAttention, updatesKeys) = (.none, true, false)
        }
    }

    private static func capacities(
        _ reader: ConfigurationReader, _ count: Int
    ) throws(ConfigurationError) -> [Double] {
        let ramp = (0..<count).map { Double(count - $0) / Double(count) }
        let capacities = try reader.doubleList("capacity", default: ramp, in: 0...1, count: count)
        if let zero = capacities.firstIndex(of: 0) {
            throw reader.error("capacity", "recursion \(zero) keeps nothing; capacities are above 0")
        }
        for r in 1..<count where capacities[r] > capacities[r - 1] {
            throw reader.error(
                "capacity",
                "grows from \(capacities[r - 1]) to \(capacities[r]); a recursion takes its tokens from those of the one before"
            )
        }
        return capacities
    }

    /// Beginnings of the names that every recursion has for itself.
    var unshared: [String] { sharesAttention ? [] : [Block.attentionName] }

    /// Whether what leaves the block is multiplied by the gate when it is added.
    var isWeighted: Bool { gating == .weighted || gatePlace == .every }
}

/// How many tokens of each sequence one recursion of a routed group works on.
struct TokenBudget {
    /// Part of the tokens.
    let share: Double
    /// Whether each sequence has just that part; otherwise it is what balanced choices come to.
    let isExact: Bool
    /// Steps over which training comes down from all tokens.
    let warmupSteps: Int

    /// Part that any pass of training may come to.
    var largestShare: Double { isExact && warmupSteps == 0 ? share : 1 }

    /// All tokens, always.
    var isWhole: Bool { isExact && share == 1 }

    /// Of an exact budget, in a pass over whole sequences: `max(1, ⌊c T⌋)`.
    func count(in pass: Pass) -> Int {
        var capacity = share
        if pass.isTraining, warmupSteps > 0 {
            let progress = min(1, Double(pass.step) / Double(warmupSteps))
            capacity += (1 - capacity) * 0.5 * (1 + cos(.pi * progress))
        }
        return max(1, Int((capacity * Double(pass.time)).rounded(.down)))
    }

    /// No sequence has more.
    func limit(in pass: Pass) -> Int { isExact && !pass.routesCausally ? count(in: pass) : pass.time }

    /// For estimates.
    func expected(of time: Int) -> Int { max(1, Int(share * Double(time))) }
}
