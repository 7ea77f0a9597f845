import Autograd
import Tensors

/// One named piece of a layer's recurrent state, handed from chunk to chunk and from batch to batch.
public struct CarryTensor {
    /// The name of the mixer's specification, `h` or `c` for example; files use `carry.<layer>.<name>`.
    public let name: String
    public let variable: Variable
    /// Whether it also survives from one batch to the next when batches are streams. The keys and
    /// values of attention do not: they would grow without bound.
    public let crossesBatches: Bool

    public init(name: String, variable: Variable, crossesBatches: Bool = true) {
        self.name = name
        self.variable = variable
        self.crossesBatches = crossesBatches
    }
}

/// All state of one layer; empty means the zero state.
public typealias Carry = [CarryTensor]

extension [CarryTensor] {
    public subscript(_ name: String) -> Variable? { first { $0.name == name }?.variable }

    /// Tensors that files gather under one name along a first axis: `<name>_l0`, `<name>_l1`, ..., or `<name>` alone.
    init(stack name: String, _ variables: [Variable]) {
        self = variables.enumerated().map {
            CarryTensor(name: variables.count == 1 ? name : "\(name)_l\($0)", variable: $1)
        }
    }

    /// The other way round; empty at a sequence's start.
    func stack(_ name: String, count: Int) -> [Variable] {
        (0..<count).compactMap { self[count == 1 ? name : "\(name)_l\($0)"] }
    }
}

/// What a layer may know about the unit of work it runs in. Nothing here depends on ranks.
public struct Pass {
    public let tape: Tape
    /// Sequences in the micro-batch (`B`).
    public let batch: Int
    /// Tokens of each sequence in this chunk (`T`).
    public let time: Int
    /// Position of the chunk's first token in its sequence.
    public let positionOffset: Int
    /// Key of every random draw, with the step and the sample ids below.
    public let seed: UInt64
    /// Optimiser step, counted from 1; evaluation uses 0.
    public let step: Int
    /// Global index of each sequence in the step's batch, `[B]`.
    public let samples: [UInt32]
    /// Dropout acts only in training.
    public let isTraining: Bool
    /// One token follows another, each with the state that those before it left.
    public let isGenerating: Bool
    /// Routers choose each token by itself, as generation must, rather than by looking at whole sequences.
    public let routesCausally: Bool
    /// [B·T], the position of every row in its sequence when the rows are not consecutive (routed tokens); nil when they
    /// start at `positionOffset`.
    public var positions: [Int32]? = nil
    /// Where layers report what they add to the loss; nil outside training.
    public let auxiliary: AuxiliaryLosses?
    /// Where layers report what they did; nil outside evaluation.
    public let statistics: LayerStatistics?

    public init(
        tape: Tape, batch: Int, time: Int, positionOffset: Int = 0, seed: UInt64 = 0, step: Int = 0,
        samples: [UInt32], isTraining: Bool, isGenerating: Bool = false, routesCausally: Bool = false,
        auxiliary: AuxiliaryLosses? = nil,
        statistics: LayerStatistics? = nil
    ) {
        self.tape = tape
        self.batch = batch
        self.time = time
        self.positionOffset = positionOffset
        self.seed = seed
        self.step = step
        self.samples = samples
        self.isTraining = isTraining
        self.isGenerating = isGenerating
        self.routesCausally = routesCausally || isGenerating
        self.auxiliary = auxiliary
        self.statistics = statistics
    }

    /// The pass that the rows of a selection make; the same one without a selection.
    func over(_ selection: TokenSelection?) -> Pass {
        guard let selection else { return self }
        var pass = Pass(self, tape: tape, time: selection.time)
        pass.positions = selection.positions(in: self)
        return pass
    }

    /// The same pass on another tape.
    func on(_ tape: Tape) -> Pass { Pass(self, tape: tape, time: time) }

    private init(_ other: Pass, tape: Tape, time: Int) {
        self.init(
            tape: tape, batch: other.batch, time: time, positionOffset: other.positionOffset, seed: other.seed,
            step: other.step, samples: other.samples, isTraining: other.isTraining, isGenerating: other.isGenerating,
            routesCausally: other.routesCausally, auxiliary: other.auxiliary, statistics: other.statistics)
        positions = other.positions
    }

    /// Number of rows of a flattened activation, `B·T`.
    public var rows: Int { batch * time }

    public func dropout(_ x: Variable, rate: Double, stream: Int) -> Variable {
        guard isTraining, rate > 0 else { return x }
        return tape.dropout(
            x, rate: Float(rate), time: time, positionOffset: positionOffset, samples: samples,
            key: DropoutKey(seed: seed, step: step, stream: stream))
    }
}

/// What the layers of one unit of work add to the loss beside the cross-entropy.
///
/// A term is a mean over its own elements in the micro-batch, times its coefficient; the step's loss has the average
/// over micro-batches. Gradients enter where the term is computed.
public final class AuxiliaryLosses {
    /// Factor on gradients: 1 ÷ micro-batches of the whole batch.
    public let scale: Float
    /// The value of each term so far, by layer and name.
    public private(set) var values: [Key: Double] = [:]

    public struct Key: Hashable, Sendable {
        /// Canonical prefix of the layer.
        public let layer: String
        public let term: String

        public init(layer: String, term: String) {
            self.layer = layer
            self.term = term
        }
    }

    public init(scale: Float) { self.scale = scale }

    /// - Parameter value: the micro-batch's, coefficient included.
    func report(_ value: Double, _ term: String, of layer: String) {
        values[Key(layer: layer, term: term)] = value
    }
}

/// What the layers of one unit of work tell of themselves, as means over its positions.
public final class LayerStatistics {
    public struct Sum: Sendable, Equatable {
        public var total = 0.0
        public var count = 0

        public init() {}

        public static func += (sum: inout Sum, other: Sum) {
            sum.total += other.total
            sum.count += other.count
        }
    }

    public private(set) var values: [AuxiliaryLosses.Key: Sum] = [:]

    public init() {}

    func report(sum: Double, count: Int, _ term: String, of layer: String) {
        var value = Sum()
        (value.total, value.count) = (sum, count)
        values[AuxiliaryLosses.Key(layer: layer, term: term)] = value
    }
}
