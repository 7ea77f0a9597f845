import Kernels

/// What one stage's, or one layer's, work on one unit (a micro-batch's chunk) costs.
public struct StageCost: Hashable, Sendable {
    /// Seconds.
    public var forward: Double
    public var inputGradient: Double
    public var weightGradient: Double
    public var recompute: Double
    /// Size of the activation handed to the next stage, and of the gradient that comes back; bytes.
    public var outputBytes: Int
    /// Intermediate results kept by a recorded forward until the weight gradient; bytes.
    public var activationBytes: Int
    /// Gradients kept from the input gradient until the weight gradient; bytes.
    public var gradientBytes: Int
    /// What an unrecorded forward keeps for its recompute (stage input and carry); bytes.
    public var inputBytes: Int
    /// Seconds to sum the stage's gradients over replicas, once per step, beside other work.
    public var reduceReplicas: Double

    /// - Parameter recompute: nil means as long as `forward`.
    public init(
        forward: Double, inputGradient: Double, weightGradient: Double, recompute: Double? = nil,
        outputBytes: Int = 0, activationBytes: Int = 0, gradientBytes: Int = 0, inputBytes: Int = 0,
        reduceReplicas: Double = 0
    ) {
        self.forward = forward
        self.inputGradient = inputGradient
        self.weightGradient = weightGradient
        self.recompute = recompute ?? forward
        self.outputBytes = outputBytes
        self.activationBytes = activationBytes
        self.gradientBytes = gradientBytes
        self.inputBytes = inputBytes
        self.reduceReplicas = reduceReplicas
    }

    /// The cost of a stage made of these layers (or stages): their times and kept bytes added up, the first one's
    /// input, the last one's output.
    ///
    /// - Precondition: at least one.
    public init(layers: [StageCost]) {
        require(!layers.isEmpty, "StageCost: got no layers; expected at least one")
        func sum(_ part: (StageCost) -> Double) -> Double { layers.reduce(0) { $0 + part($1) } }
        self.init(
            forward: sum(\.forward), inputGradient: sum(\.inputGradient), weightGradient: sum(\.weightGradient),
            recompute: sum(\.recompute), outputBytes: layers.last!.outputBytes,
            activationBytes: layers.reduce(0) { $0 + $1.activationBytes },
            gradientBytes: layers.reduce(0) { $0 + $1.gradientBytes }, inputBytes: layers[0].inputBytes,
            reduceReplicas: sum(\.reduceReplicas))
    }
}

/// How messages travel.
///
/// A message arrives `latency + bytes / bandwidth` seconds after its send has been started and its receive posted,
/// however many are under way. MPI has no thread of its own: what it does costs the ranks processor time at both ends,
/// `messageSeconds + bytes / copyBandwidth`. The receiver pays where it does not wait for the message anyway. And a
/// message above `eagerBytes` moves only when its sender looks at the transport once more after both are ready; a sender
/// that computes looks every `pokeInterval` seconds. (One that happens to wait looks at once, so this is an upper bound.)
public struct MessageCost: Hashable, Sendable {
    /// Seconds.
    public var latency: Double
    /// Bytes per second.
    public var bandwidth: Double
    /// Processor time per message at each end; seconds.
    public var messageSeconds: Double
    /// Bytes per second that one processor copies in or out of the transport.
    public var copyBandwidth: Double
    /// Seconds between two looks at the transport of a rank that computes; 0 when messages move by themselves.
    public var pokeInterval: Double
    /// Messages up to this size leave with the send; bytes.
    public var eagerBytes: Int

    public init(
        latency: Double = 0, bandwidth: Double = .infinity, messageSeconds: Double = 0,
        copyBandwidth: Double = .infinity, pokeInterval: Double = 0, eagerBytes: Int = 4096
    ) {
        self.latency = latency
        self.bandwidth = bandwidth
        self.messageSeconds = messageSeconds
        self.copyBandwidth = copyBandwidth
        self.pokeInterval = pokeInterval
        self.eagerBytes = eagerBytes
    }

    /// Processor time at each end.
    func processorSeconds(_ bytes: Int) -> Double { messageSeconds + Double(bytes) / copyBandwidth }

    /// When a message arrives whose send ended at `sent` and whose receive was posted at `posted`.
    package func arrival(sent: Double, posted: Double, _ bytes: Int) -> Double {
        var start = max(sent, posted)
        if pokeInterval > 0, bytes > eagerBytes {
            let looks = max(1, ((start + latency - sent) / pokeInterval).rounded(.up))
            start = max(start, sent + looks * pokeInterval)
        }
        return start + latency + Double(bytes) / bandwidth
    }
}

/// What everything costs.
public struct CostModel: Hashable, Sendable {
    /// One per stage.
    public var stages: [StageCost]
    public var messages: MessageCost
    /// Size of each skip's message; nil takes the `outputBytes` of the stage where it begins.
    public var skipBytes: [Int]?
    /// Seconds on each rank.
    public var reduceTied: Double
    public var step: Double
    /// Processor cores that the ranks share; nil when each has its own. When more ranks work than there are cores, all
    /// that work are slowed alike; waiting costs nothing.
    public var processors: Int?

    public init(
        stages: [StageCost], messages: MessageCost = MessageCost(), skipBytes: [Int]? = nil, reduceTied: Double = 0,
        step: Double = 0, processors: Int? = nil
    ) {
        self.stages = stages
        self.messages = messages
        self.skipBytes = skipBytes
        self.reduceTied = reduceTied
        self.step = step
        self.processors = processors
    }

    /// Equal stages, free communication.
    public static func uniform(
        stageCount: Int, forward: Double = 1, inputGradient: Double = 0.5, weightGradient: Double = 0.5
    ) -> CostModel {
        let stage = StageCost(forward: forward, inputGradient: inputGradient, weightGradient: weightGradient)
        return CostModel(stages: Array(repeating: stage, count: stageCount))
    }

    func seconds(_ action: Action) -> Double {
        switch action.kind {
        case .forward: stages[action.stage].forward
        case .inputGradient: stages[action.stage].inputGradient
        case .weightGradient: stages[action.stage].weightGradient
        case .backward: stages[action.stage].inputGradient + stages[action.stage].weightGradient
        case .recompute: stages[action.stage].recompute
        case .reduceTied: reduceTied
        case .step: step
        default: 0
        }
    }
}
