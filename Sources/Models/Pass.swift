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
    /// [B·T], the position of every row in its sequence when the rows are not consecutive (routed tokens); nil when they
    /// start at positionOffset.
    public var positions: [Int32]? = nil

    public init(
        tape: Tape, batch: Int, time: Int, positionOffset: Int = 0, seed: UInt64 = 0, step: Int = 0,
        samples: [UInt32], isTraining: Bool
    ) {
        self.tape = tape
        self.batch = batch
        self.time = time
        self.positionOffset = positionOffset
        self.seed = seed
        self.step = step
        self.samples = samples
        self.isTraining = isTraining
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
