import Autograd
import Glibc
import Kernels
import Models
import Tensors

/// What an exit rule means for one model.
struct ExitPlan {
    let rule: ExitRule
    let recursion: Recursion
    /// The layers of the block that keep keys and values of each application's own: place in the block, shape of a token's.
    let cached: [(place: Int, shape: Shape)]
    /// Of the state.
    let width: Int
    /// By layer of the recursion.
    private let keepers: [Int]

    /// - Precondition: the rule has no `problem` with the model.
    init(_ rule: ExitRule, _ model: Model) {
        self.rule = rule
        recursion = model.recursions[0]
        width = model.outputWidth(ofLayer: recursion.layers.lowerBound)
        keepers = rule.keepers(in: recursion)
        cached = Self.block(model).compactMap { place, block in
            (block.mixer as? AttentionMixer)?.entryShape.map { (place, $0) }
        }
    }

    /// The blocks that a token may leave out, by place in the shared block.
    fileprivate static func block(_ model: Model) -> [(place: Int, Block)] {
        let recursion = model.recursions[0]
        let last = recursion.layers.suffix(recursion.blockLength)
        return last.compactMap { index in
            (model.layers[index] as? Block).map { (index - last.lowerBound, $0) }
        }
    }

    /// Of a token's message between stages.
    var floatCount: Int { 2 + width + (rule.cache == .latest ? cached.reduce(0) { $0 + 2 * $1.shape.count } : 0) }

    /// The layer under which a layer's keys, values and states are kept: the one at its place in the first application of the
    /// same slot.
    func keeper(_ index: Int) -> Int {
        recursion.layers.contains(index) ? keepers[index - recursion.layers.lowerBound] : index
    }

    /// Whether a token that is under way may come to layer `index` with a past.
    func isWithin(_ index: Int) -> Bool { recursion.layers.lowerBound < index && index <= recursion.layers.upperBound }
}

extension ExitRule {
    fileprivate func keepers(in recursion: Recursion) -> [Int] {
        var keepers = Array(recursion.layers)
        guard let slots else { return keepers }
        let applications = (0..<recursion.count).filter(recursion.isGenerated).map { $0 * recursion.blockLength }
        for (ordinal, start) in applications.enumerated() {
            for place in 0..<recursion.blockLength {
                keepers[start + place] = recursion.layers.lowerBound + applications[ordinal % slots] + place
            }
        }
        return keepers
    }

    /// Why a model cannot generate by this rule, laid out so, with the remedy; nil when it can.
    public func problem(_ model: Model, stageLayers: [Range<Int>], placement: Placement) -> String? {
        guard model.recursions.count == 1, model.recursions[0].sharing == .cycle else {
            return "tokens leave one shared block between its applications (a 'recursion' section, sharing: cycle); "
                + "this model has \(model.recursions.count) shared blocks; remove generate.exit"
        }
        let layers = model.recursions[0].layers
        let leading = model.links.filter { layers.contains($0.from) && $0.to >= layers.upperBound && $0.port != .exit }
        if leading.contains(where: { $0.port != .sum }) {
            return "the model decides by itself how far a token goes (router or halting); remove generate.exit"
        }
        if slots != nil {
            if model.links.contains(where: { $0.port == .keys }) {
                return "share_key_values keeps those of one application already; remove slots"
            }
            func rank(_ index: Int) -> Int { placement.ranks[stageLayers.firstIndex { $0.contains(index) }!] }
            if zip(layers, keepers(in: model.recursions[0])).contains(where: { rank($0) != rank($1) }) {
                return
                    "applications that share a slot lie on several ranks; set parallel.placement: ring with no more ranks "
                    + "than the block has layers, generate with one rank, or remove slots"
            }
        }
        if criterion.asksHead {
            if placement.rankCount > 1 {
                return "criterion \(criterion.rawValue) asks the head after every application, which lies on another "
                    + "rank; generate with one rank, or by criterion latent_change or cosine"
            }
            if model.links.contains(where: { $0.port == .sum && $0.to >= layers.upperBound }) {
                return "criterion \(criterion.rawValue) asks the head before skips have come to the layers behind the "
                    + "shared block; use criterion latent_change or cosine"
            }
        }
        for (_, block) in ExitPlan.block(model) {
            let attention = block.mixer as? AttentionMixer
            if attention?.window != nil {
                return
                    "attention in the shared block has a window, which tokens that left cannot be counted by; remove "
                    + "generate.exit"
            }
            if attention == nil, cache == .latest {
                return
                    "cache latest needs attention in every layer of the shared block, '\(block.name)' has another mixer; "
                    + "use cache full"
            }
        }
        return nil
    }
}

/// How far one token has come through the applications of a shared block, and whether it has left.
final class TokenExit {
    private let plan: ExitPlan
    private let context: ComputeContext
    /// Logits `[1, V]` that a state leads to.
    private let ask: (Variable) -> Tensor

    private(set) var iterations = 0
    private var isOut = false
    /// State before the latest application.
    private var previous: Tensor
    /// By place in the block, key and value of the latest application.
    private var entries: [Int: (key: Tensor, value: Tensor)] = [:]
    /// Of the latest application: `log p` by token, and since when the likeliest one has stayed.
    private var reading: (logs: [Double], best: Int, stable: Int)?

    init(_ plan: ExitPlan, _ context: ComputeContext, ask: @escaping (Variable) -> Tensor) {
        (self.plan, self.context, self.ask) = (plan, context, ask)
        previous = context.zeros(Shape(1, plan.width))
    }

    private var layers: Range<Int> { plan.recursion.layers }

    /// To be called before every layer; takes stock between applications.
    func arrive(at index: Int, _ state: Tensor) {
        guard (layers.lowerBound...layers.upperBound).contains(index) else { return }
        let (application, place) = (index - layers.lowerBound).quotientAndRemainder(
            dividingBy: plan.recursion.blockLength)
        guard place == 0 else { return }
        if application == 0 {
            (iterations, isOut, reading) = (0, false, nil)
            entries.removeAll()
        } else if !isOut, plan.recursion.isGenerated(application - 1) {
            iterations += 1
            isOut = index < layers.upperBound && isSettled(state) && iterations >= plan.rule.minimum
        }
        previous = state
    }

    /// What comes of a layer that the token leaves out: the state as it is, and past keys and values with what stands in for
    /// the token's, nil where none is missing; nil when it has to go through.
    func passing(_ index: Int, _ flow: Flow, carry: Carry) -> (Flow, Carry?)? {
        guard isOut, layers.contains(index) else { return nil }
        var flow = flow
        flow.leaving = flow.arriving
        let (application, place) = (index - layers.lowerBound).quotientAndRemainder(
            dividingBy: plan.recursion.blockLength)
        // A slot that several applications share has had the token's since the first of them.
        guard plan.rule.cache == .latest, plan.recursion.isGenerated(application), plan.keeper(index) == index,
            let entry = entries[place]
        else { return (flow, nil) }
        return (flow, [appended("k", entry.key, to: carry), appended("v", entry.value, to: carry)])
    }

    /// Remembers what a layer has kept of the token.
    func keep(_ carry: Carry, of index: Int) {
        guard plan.rule.cache == .latest, layers.contains(index), let key = carry["k"], let value = carry["v"] else {
            return
        }
        entries[(index - layers.lowerBound) % plan.recursion.blockLength] = (last(key.value), last(value.value))
    }

    /// `[1, 1, Hkv, d]` of `[1, P, Hkv, d]`.
    private func last(_ past: Tensor) -> Tensor {
        let entry = context.tensor(Shape(1, 1, past.shape[2], past.shape[3]))
        entry.copy(from: past.pointer + past.count - entry.count, count: entry.count)
        return entry
    }

    private func appended(_ name: String, _ entry: Tensor, to carry: Carry) -> CarryTensor {
        let past = carry[name]?.value
        let joined = context.tensor(Shape(1, (past?.shape[1] ?? 0) + 1, entry.shape[2], entry.shape[3]))
        if let past { joined.copy(from: past.pointer, count: past.count) }
        (joined.pointer + joined.count - entry.count).update(from: entry.pointer, count: entry.count)
        return CarryTensor(name: name, variable: Variable(joined), crossesBatches: false)
    }

    // MARK: Criteria

    private func isSettled(_ state: Tensor) -> Bool {
        let (criterion, threshold) = (plan.rule.criterion, plan.rule.threshold)
        if !criterion.asksHead {
            let (s, before) = (state.array.map(Double.init), previous.array.map(Double.init))
            func product(_ a: [Double], _ b: [Double]) -> Double { zip(a, b).reduce(0) { $0 + $1.0 * $1.1 } }
            if criterion == .cosine {
                let cosine = product(s, before) / (product(s, s) * product(before, before)).squareRoot()
                return max(0, 1 - cosine) < threshold
            }
            let change = zip(s, before).map { $0 - $1 }
            return product(change, change).squareRoot() < threshold * product(s, s).squareRoot()
        }
        let logits = ask(Variable(state)).array.map(Double.init)
        let best = logits.indices.max { logits[$0] < logits[$1] }!
        let normalizer = logits[best] + log(logits.reduce(0) { $0 + exp($1 - logits[best]) })
        var logs = logits.map { $0 - normalizer }
        if criterion == .minKL {
            let floor = logs[best] + log(0.1)
            logs = logs.map { $0 < floor ? -log(Double(logits.count)) : $0 }
            let sum = log(logs.reduce(0) { $0 + exp($1) })
            logs = logs.map { $0 - sum }
        }
        let before = reading
        reading = (logs, best, before?.best == best ? before!.stable + 1 : 0)
        if criterion == .confidence { return exp(logs[best]) > threshold }
        if criterion == .argmaxStable { return Double(reading!.stable) >= threshold }
        guard let before else { return false }
        if criterion == .entropyChange {
            func entropy(_ logs: [Double]) -> Double { -logs.reduce(0) { $0 + exp($1) * $1 } }
            return abs(entropy(logs) - entropy(before.logs)) < threshold
        }
        return max(0, zip(before.logs, logs).reduce(0) { $0 + exp($1.0) * ($1.0 - $1.1) }) < threshold
    }

    // MARK: Messages

    /// Writes `ExitPlan.floatCount` floats for the next stage.
    func pack(into floats: UnsafeMutablePointer<Float>) {
        floats[0] = isOut ? 1 : 0
        floats[1] = Float(iterations)
        (floats + 2).update(from: previous.pointer, count: plan.width)
        guard plan.rule.cache == .latest else { return }
        var next = floats + 2 + plan.width
        for (place, shape) in plan.cached {
            for tensor in [entries[place]?.key, entries[place]?.value] {
                // Before its first application a layer has nothing.
                if let tensor {
                    next.update(from: tensor.pointer, count: shape.count)
                } else {
                    next.update(repeating: 0, count: shape.count)
                }
                next += shape.count
            }
        }
    }

    /// The other way round.
    func unpack(_ floats: UnsafePointer<Float>) {
        (isOut, iterations) = (floats[0] == 1, Int(floats[1]))
        var next = floats + 2
        func tensor(_ shape: Shape) -> Tensor {
            let tensor = context.tensor(shape)
            tensor.copy(from: next, count: tensor.count)
            next += tensor.count
            return tensor
        }
        previous = tensor(Shape(1, plan.width))
        guard plan.rule.cache == .latest else { return }
        for (place, shape) in plan.cached { entries[place] = (tensor(shape), tensor(shape)) }
    }
}
