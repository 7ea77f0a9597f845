import Autograd
import Kernels
import Tensors

/// What is added to the state before every application of a shared block, to tell positions and applications apart
/// (Universal Transformer, arXiv 1807.03819, section 2.1).
///
/// Keys of `signals:` in `recursion:`
/// - `position`: sinusoids of the position, laid out as `t2t` (default) | `paper`, or `none` (`TimingSignals.Layout`).
/// - `step`: `learned` (default), a row of `step_embedding.weight [R, D]` times √D | `sinusoid`, of the application
///   counted from 0, laid out as those of positions (`t2t` without these) | `none`.
/// - `position_range` (0): in training every sequence starts at a position of its own, uniform in `0...position_range`, so
///   that sequences longer than those trained on meet no new positions.
struct StepSignals {
    enum Position: String, CaseIterable { case t2t, paper, none }
    enum Step: String, CaseIterable { case learned, sinusoid, none }

    let step: Step
    private let addsPosition: Bool
    private let positionRange: Int
    private let sinusoids: TimingSignals?

    /// - Throws: when sinusoids do not fit the width.
    init(_ reader: ConfigurationReader, width: Int) throws(ConfigurationError) {
        let position: Position = try reader.choice("position", default: .t2t)
        step = try reader.choice("step", default: .learned)
        addsPosition = position != .none
        positionRange = try reader.int("position_range", default: 0, in: 0...1 << 20)
        guard addsPosition || step == .sinusoid else {
            sinusoids = nil
            return
        }
        if width % 2 != 0 {
            throw reader.error(
                "position", "sines and cosines need an even width, not \(width); use position: none, step: learned")
        }
        sinusoids = TimingSignals(width: width, layout: position == .paper ? .paper : .t2t)
    }

    /// The learned signals; nil when there are none.
    func embedding(count: Int, _ builder: LayerBuilder) -> ParameterUse? {
        guard step == .learned else { return nil }
        let deviation = 1 / Float(builder.inputWidth).squareRoot()
        return builder.matrix(
            "step_embedding.weight", count, builder.inputWidth, .normal(standardDeviation: deviation))
    }

    /// - Parameters:
    ///   - x: `[B·T, D]`. - application: counted from 0. - embedding: of all applications, where they are learned.
    func add(to x: Variable, application: Int, embedding: ParameterUse?, _ pass: Pass) -> Variable {
        var x = x
        if addsPosition {
            x = pass.tape.addTimingSignals(
                x, time: pass.time, positionOffset: pass.positionOffset, positions: positions(pass), sinusoids!)
        }
        switch step {
        case .learned:
            return pass.tape.addBias(x, embedding!, row: application, factor: Float(x.value.width).squareRoot())
        case .sinusoid: return pass.tape.addTimingSignal(x, step: application, sinusoids!)
        case .none: return x
        }
    }

    /// `[B·T]`, or nil where they are consecutive. A function of seed, step and sample, the same in all applications.
    private func positions(_ pass: Pass) -> [Int32]? {
        guard pass.isTraining, positionRange > 0 else { return pass.positions }
        let starts = pass.samples.map { sample in
            let stream = PhiloxStream(seed: pass.seed, a: sample, b: .max, c: UInt32(pass.step))
            return Int32(Philox.words(stream, count: 1)[0] % UInt32(positionRange + 1))
        }
        return (0..<pass.rows).map { row in
            starts[row / pass.time] + (pass.positions?[row] ?? Int32(pass.positionOffset + row % pass.time))
        }
    }
}
