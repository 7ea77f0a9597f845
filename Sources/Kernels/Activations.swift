import CKernels

/// An elementwise nonlinearity.
public enum Activation: String, CaseIterable, Sendable {
    case tanh
    case sigmoid
    case relu
    /// `x·σ(x)`
    case silu
    /// `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`, as in GPT-2.
    case geluTanh = "gelu_tanh"
    /// `x·Φ(x)`, the exact form.
    case gelu

    /// Whether `Activations.backward` takes the forward's output (tanh, sigmoid) or its input (the others).
    public var savesOutput: Bool { self == .tanh || self == .sigmoid }
}

/// Nonlinearities, accurate to 3 ulp where their condition allows; NaN passes and the limits at ±∞ are right.
public enum Activations {
    public typealias Source = UnsafePointer<Float>
    public typealias Destination = UnsafeMutablePointer<Float>

    /// `y = f(x)`; `y` may be `x`.
    public static func forward(
        _ activation: Activation, _ x: Source, into y: Destination, count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in
            let x = x + start, y = y + start
            switch activation {
            case .tanh: ck_tanh(y, x, length)
            case .sigmoid: ck_sigmoid(y, x, length)
            case .relu: ck_relu(y, x, length)
            case .silu: ck_silu(y, x, length)
            case .geluTanh: ck_gelu_tanh(y, x, length)
            case .gelu: ck_gelu_erf(y, x, length)
            }
        }
    }

    /// `dx = dy · f′`; `dx` may be `dy`.
    /// - Parameter saved: the output or the input of the forward, see `Activation.savesOutput`.
    public static func backward(
        _ activation: Activation, _ dy: Source, saved: Source, into dx: Destination, count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in
            let dy = dy + start, saved = saved + start, dx = dx + start
            switch activation {
            case .tanh: ck_tanh_backward(dx, dy, saved, length)
            case .sigmoid: ck_sigmoid_backward(dx, dy, saved, length)
            case .relu: ck_relu_backward(dx, dy, saved, length)
            case .silu: ck_silu_backward(dx, dy, saved, length)
            case .geluTanh: ck_gelu_tanh_backward(dx, dy, saved, length)
            case .gelu: ck_gelu_erf_backward(dx, dy, saved, length)
            }
        }
    }

    /// `y = eˣ`; `y` may be `x`.
    public static func exp(_ x: Source, into y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in ck_exp(y + start, x + start, length) }
    }

    /// `y = silu(gate) · up`, each `[count]`.
    public static func swiGLU(
        gate: Source, up: Source, into y: Destination, count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in ck_swiglu(y + start, gate + start, up + start, length) }
    }

    /// `dGate = dy · up · silu′(gate)`, `dUp = dy · silu(gate)`; they may be `gate` and `up`.
    public static func swiGLUBackward(
        _ dy: Source, gate: Source, up: Source, dGate: Destination, dUp: Destination, count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in
            ck_swiglu_backward(dGate + start, dUp + start, dy + start, gate + start, up + start, length)
        }
    }

    /// `y = σ(gate) · up`, each `[count]`.
    public static func glu(gate: Source, up: Source, into y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in ck_glu(y + start, gate + start, up + start, length) }
    }

    /// `dGate = dy · up · σ′(gate)`, `dUp = dy · σ(gate)`; they may be `gate` and `up`.
    public static func gluBackward(
        _ dy: Source, gate: Source, up: Source, dGate: Destination, dUp: Destination, count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in
            ck_glu_backward(dGate + start, dUp + start, dy + start, gate + start, up + start, length)
        }
    }

    /// `y = log(1 + eˣ)`; `y` may be `x`. Its derivative is the logistic function.
    public static func softplus(_ x: Source, into y: Destination, count: Int, threads: ThreadPool) {
        threads.forEachPanel(of: count) { start, length in ck_softplus(y + start, x + start, length) }
    }

    /// `y = factor · log σ(x)`; `y` may be `x`.
    public static func logSigmoid(
        _ x: Source, factor: Float, into y: Destination, count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in ck_log_sigmoid(y + start, x + start, factor, length) }
    }

    /// `dx = dy · factor · σ(−x)`; `dx` may be `dy`.
    public static func logSigmoidBackward(
        _ dy: Source, x: Source, factor: Float, into dx: Destination, count: Int, threads: ThreadPool
    ) {
        threads.forEachPanel(of: count) { start, length in
            ck_log_sigmoid_backward(dx + start, dy + start, x + start, factor, length)
        }
    }
}
