import Glibc
import Models

/// `learning_rate:` — linear warm-up, then one of five shapes.
///
/// With `t` the step counted from 1, `w` `warmup_steps`, `N` `train.steps` and `d` `decay_steps`:
/// - `constant`: `peak`.
/// - `linear`: from `peak` at `w` to `minimum` at `N`.
/// - `cosine`: `minimum + (peak − minimum)(1 + cos π(t−w)/(N−w))/2` (arXiv 1608.03983).
/// - `inverse_sqrt`: `peak · √(w / t)`.
/// - `wsd` (trapezoid): `peak` until `N − d`, then linear to `minimum` (arXiv 2404.06395).
public struct LearningRateSchedule: Sendable {
    public enum Shape: String, CaseIterable, Sendable {
        case constant, linear, cosine, wsd
        case inverseSquareRoot = "inverse_sqrt"
    }

    public let shape: Shape
    public let peak: Double
    public let minimum: Double
    public let warmupSteps: Int
    public let decaySteps: Int
    public let steps: Int

    init(_ reader: ConfigurationReader, steps: Int) throws(ConfigurationError) {
        self.steps = steps
        shape = try reader.choice("schedule", as: Shape.self, default: .constant)
        peak = try reader.double("peak", default: nil, in: 0...1e6)
        warmupSteps = try reader.int("warmup_steps", default: 0, in: 0...Int.max)
        switch shape {
        case .constant, .inverseSquareRoot: minimum = 0
        case .linear, .cosine, .wsd: minimum = try reader.double("minimum", default: 0, in: 0...1e6)
        }
        decaySteps = shape == .wsd ? try reader.int("decay_steps", default: max(1, steps / 5), in: 1...Int.max) : 0
        if minimum > peak { throw reader.error("minimum", "\(minimum) is above the peak \(peak)") }
        if shape == .inverseSquareRoot, warmupSteps == 0 {
            throw reader.error("warmup_steps", "inverse_sqrt is scaled by the warm-up; set warmup_steps of at least 1")
        }
    }

    /// Rate of step `t`, counted from 1.
    public func rate(step t: Int) -> Double {
        if t < warmupSteps { return peak * Double(t) / Double(warmupSteps) }
        switch shape {
        case .constant: return peak
        case .linear: return peak + (minimum - peak) * progress(t, from: warmupSteps, to: steps)
        case .cosine:
            return minimum + (peak - minimum) * (1 + cos(.pi * progress(t, from: warmupSteps, to: steps))) / 2
        case .inverseSquareRoot: return peak * (Double(warmupSteps) / Double(t)).squareRoot()
        case .wsd:
            return peak + (minimum - peak) * progress(t, from: max(warmupSteps, steps - decaySteps), to: steps)
        }
    }

    private func progress(_ t: Int, from start: Int, to end: Int) -> Double {
        guard end > start else { return t >= end ? 1 : 0 }
        return min(1, max(0, Double(t - start) / Double(end - start)))
    }
}
