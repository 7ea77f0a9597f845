import CKernels
import Glibc

/// Fused parameter updates, one pass over memory. `gradientScale` folds clipping and averaging into the update.
public enum OptimizerKernels {
    /// Settings of one Adam step. `decoupledDecay` gives AdamW (arXiv 1711.05101), `l2Penalty` the original Adam with L2.
    public struct Adam: Sendable {
        public var learningRate: Double
        public var beta1 = 0.9
        public var beta2 = 0.999
        public var epsilon = 1e-8
        public var decoupledDecay = 0.0
        public var l2Penalty = 0.0
        public var gradientScale: Float = 1

        public init(learningRate: Double) { self.learningRate = learningRate }
    }

    /// Settings of one step of stochastic gradient descent.
    public struct SGD: Sendable {
        public var learningRate: Double
        public var momentum = 0.0
        public var nesterov = false
        public var l2Penalty = 0.0
        public var gradientScale: Float = 1

        public init(learningRate: Double) { self.learningRate = learningRate }
    }

    /// `g = s·g + λp; m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²; p = p(1−ηω) − η·m̂ / (√v̂ + ε)`, with bias-corrected `m̂`, `v̂`.
    /// - Parameters:
    ///   - first, second: `m` and `v`, 0 before step 1.
    ///   - step: counted from 1.
    public static func adam(
        _ settings: Adam, step: Int, parameters: UnsafeMutablePointer<Float>, gradient: UnsafePointer<Float>,
        first: UnsafeMutablePointer<Float>, second: UnsafeMutablePointer<Float>, count: Int, threads: ThreadPool
    ) {
        require(step >= 1, "OptimizerKernels.adam: step \(step); expected at least 1")
        let constants = ck_adam_step(
            beta1: Float(settings.beta1), beta2: Float(settings.beta2), epsilon: Float(settings.epsilon),
            step_size: Float(settings.learningRate / (1 - pow(settings.beta1, Double(step)))),
            second_correction: Float(1 / (1 - pow(settings.beta2, Double(step))).squareRoot()),
            decay: Float(1 - settings.learningRate * settings.decoupledDecay), l2_penalty: Float(settings.l2Penalty),
            gradient_scale: settings.gradientScale)
        threads.forEachPanel(of: count) { start, length in
            withUnsafePointer(to: constants) {
                ck_adam(parameters + start, first + start, second + start, gradient + start, length, $0)
            }
        }
    }

    /// `g = s·g + λp; u = μu + g; p −= η·u`, or with Nesterov `p −= η·(g + μu)`.
    /// - Parameter velocity: `u`, 0 before the first step; nil exactly when the momentum is 0.
    public static func sgd(
        _ settings: SGD, parameters: UnsafeMutablePointer<Float>, gradient: UnsafePointer<Float>,
        velocity: UnsafeMutablePointer<Float>?, count: Int, threads: ThreadPool
    ) {
        require(
            (velocity == nil) == (settings.momentum == 0),
            "OptimizerKernels.sgd: momentum \(settings.momentum) \(velocity == nil ? "without" : "with") a velocity")
        let constants = ck_sgd_step(
            learning_rate: Float(settings.learningRate), momentum: Float(settings.momentum),
            l2_penalty: Float(settings.l2Penalty), gradient_scale: settings.gradientScale,
            nesterov: settings.nesterov ? 1 : 0)
        threads.forEachPanel(of: count) { start, length in
            withUnsafePointer(to: constants) {
                ck_sgd(parameters + start, velocity.map { $0 + start }, gradient + start, length, $0)
            }
        }
    }
}
