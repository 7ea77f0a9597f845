import Autograd
import Glibc
import Kernels

/// A core that is iterated from a random state, with the embedded input injected every time, and a number of
/// iterations drawn for every step (arXiv 2502.05171). Layers before the group are its prelude, layers after it its coda.
///
/// Keys of `depth:` in `recursion:`, which make the group one of these
/// - `mean` (32): iterations in evaluation and generation, and about the mean `p` of a training step.
/// - `backpropagated` (8): the last `k = min(backpropagated, p)` iterations have gradients; the `n = p − k` before them run
///   forward only, and what comes of them is a constant.
/// - `sampling`: `poisson_lognormal` (default), `p = 1 + Poisson(λ)` with `log λ ~ N(log mean − σ²/2, σ²)`, so that
///   `E p = mean + 1` and `Var p = mean + mean²(e^(σ²) − 1)` | `fixed`, `p = mean`. `deviation` (0.5) is `σ`.
/// - `maximum` (3 · mean; with `fixed`, mean): a draw above it is cut down to it. With `σ = 0.5` and the default that
///   happens in 0.7 % of the steps.
/// - `final_norm` (true): the model's final norm acts on the core's last state, too.
///
/// Keys beside `depth:`: `injection`: `linear` (default), `W [s; e]` with `adapter.weight [D, 2D]` under the group's first
/// layer | `add`, `s + e`; `state`: `like_init` (default), normal with deviation `state_deviation` (√(2 / 5D)) times √D, cut
/// off at three deviations, | `zero`.
///
/// The draw depends on seed and step alone: all micro-batches of a step share it, where the paper draws for each, so
/// that none waits for a deeper one. The list of layers holds `maximum` iterations, whichever of them a step runs:
/// the last `backpropagated` with gradients, and before them the forward-only ones, of which a step runs as many as it
/// needs, spread evenly, so that any cut of the list into stages has shares of the work that do not depend on the draw.
package struct RecurrentDepth {
    package enum Sampling: String, CaseIterable { case poissonLognormal = "poisson_lognormal", fixed }
    package enum Injection: String, CaseIterable { case linear, add }
    package enum InitialState: String, CaseIterable { case likeInit = "like_init", zero }

    let mean: Int
    /// At most all.
    package let backpropagated: Int
    package let maximum: Int
    let sampling: Sampling
    let deviation: Double
    let hasFinalNorm: Bool
    let injection: Injection
    let state: InitialState
    /// Of the state, before the factor √D.
    let stateDeviation: Double

    /// - Parameter reader: the `recursion` section.
    package init(_ reader: ConfigurationReader, width: Int) throws(ConfigurationError) {
        let depth = try reader.section("depth")
        mean = try depth.int("mean", default: 32, in: 1...10_000)
        let wanted = try depth.int("backpropagated", default: 8, in: 1...10_000)
        sampling = try depth.choice("sampling", default: .poissonLognormal)
        deviation = try depth.double("deviation", default: 0.5, in: 0...4)
        maximum =
            sampling == .fixed ? mean : try depth.int("maximum", default: 3 * mean, in: mean...20_000)
        backpropagated = min(wanted, maximum)
        hasFinalNorm = try depth.bool("final_norm", default: true)
        injection = try reader.choice("injection", default: .linear)
        state = try reader.choice("state", default: .likeInit)
        stateDeviation = try reader.double(
            "state_deviation", default: (2 / (5 * Double(width))).squareRoot(), above: 0)
    }

    /// Iterations of the list without gradient; they come first.
    package var forwardOnlyCount: Int { maximum - backpropagated }

    /// Iterations `p` of a step; all of them where layers are timed, which is a training pass of no step.
    func iterations(in pass: Pass, stream: Int) -> Int {
        guard pass.isTraining, sampling == .poissonLognormal else { return mean }
        if pass.step == 0 { return maximum }
        return draw(PhiloxStream(seed: pass.seed, a: .max, b: UInt32(stream), c: UInt32(pass.step)))
    }

    /// `1 + Poisson(λ)`, at most `maximum`: how many arrivals of a process of rate 1 come before `λ`.
    package func draw(_ stream: PhiloxStream) -> Int {
        let uniform = Philox.words(stream, count: 2 + maximum).map { (Double($0) + 0.5) / 4_294_967_296 }
        let normal = (-2 * log(uniform[0])).squareRoot() * cos(2 * .pi * uniform[1])
        let rate = exp(log(Double(mean)) - deviation * deviation / 2 + deviation * normal)
        var (time, count) = (0.0, 1)
        for u in uniform[2...] where count < maximum {
            time -= log(u)
            if time >= rate { break }
            count += 1
        }
        return count
    }
}

/// One iteration's place in the list of layers.
package struct DepthLap {
    let depth: RecurrentDepth
    /// Among the iterations of the list.
    let index: Int
    /// Keys the draw of the number of iterations.
    let stream: Int

    package init(depth: RecurrentDepth, index: Int, stream: Int) {
        (self.depth, self.index, self.stream) = (depth, index, stream)
    }

    package var isForwardOnly: Bool { index < depth.forwardOnlyCount }
    /// What the embedded input comes and goes by.
    var port: LayerPort { isForwardOnly ? .constantInjection : .injection }
    /// Whether the next iteration takes the embedded input from here.
    var handsOn: Bool { index != depth.forwardOnlyCount - 1 && index != depth.maximum - 1 }

    private func runs(in pass: Pass) -> Bool { runs(of: depth.iterations(in: pass, stream: stream)) }

    /// Whether it is one of a step's iterations.
    package func runs(of iterations: Int) -> Bool {
        guard isForwardOnly else { return depth.maximum - index <= iterations }
        let count = max(iterations - depth.backpropagated, 0)
        return (index + 1) * count / depth.forwardOnlyCount > index * count / depth.forwardOnlyCount
    }

    /// Share of the steps that run it, about.
    var share: Double {
        guard isForwardOnly else { return 1 }
        let mean = depth.mean + (depth.sampling == .fixed ? 0 : 1)
        return Double(min(max(mean - depth.backpropagated, 0), depth.forwardOnlyCount)) / Double(depth.forwardOnlyCount)
    }

    /// Runs a layer of the core, or passes the state on.
    func forward(
        _ flow: Flow, carry: Carry, _ pass: Pass, _ body: (Flow, Carry, Pass) -> (Flow, Carry)
    ) -> (Flow, Carry) {
        var flow = flow
        // What stands here is a constant, though a stage before this one has sent it.
        if isForwardOnly { flow.activation = Variable(flow.activation.value) }
        guard runs(in: pass) else { return (flow, []) }
        let pass = isForwardOnly ? pass.on(Tape(pass.tape.context, isRecording: false)) : pass
        let (result, carryOut) = body(flow, carry, pass)
        // The next batch runs other iterations.
        let carries = carryOut.map { CarryTensor(name: $0.name, variable: $0.variable, crossesBatches: false) }
        return (result, carries)
    }
}
