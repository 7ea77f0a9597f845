import Autograd
import Communication
import Kernels
import Tensors

/// Gradients of the parameters that one rank holds, summed over use-sites in use-site order, whichever
/// ranks the use-sites lie on (`REDUCE_TIED`).
///
/// Every rank that applies a shared parameter keeps a replica of it, sees all slots, adds them in the
/// same order, and so makes the same update.
public struct TiedGradients {
    /// Owner rank of each use-site of each parameter, by canonical parameter index.
    public let useRanks: [[Int]]
    /// Ranks that apply each parameter, with a gradient or without, ascending.
    private let holders: [[Int]]
    private let parameters: [Parameter]

    /// - Parameter rankOfUse: the rank that runs the layer a use-site belongs to.
    public init(parameters: [Parameter], rankOfUse: (ParameterUse) -> Int) {
        self.parameters = parameters
        useRanks = parameters.map { $0.uses.map(rankOfUse) }
        holders = parameters.map { Set(($0.uses + $0.readers).map(rankOfUse)).sorted() }
    }

    /// Whether `rank` applies parameter `index`.
    public func isHeld(_ index: Int, by rank: Int) -> Bool { holders[index].contains(rank) }

    /// The one rank that speaks for parameter `index` in norms and checkpoints.
    public func owner(_ index: Int) -> Int { useRanks[index][0] }

    /// Collective over the ranks of one pipeline that share a parameter.
    ///
    /// - Parameter share: the piece of every gradient that this replica has summed.
    /// - Returns: by canonical index, that piece of the gradient of each held parameter.
    public func reduce(
        _ communicator: any Communicator, share: ReplicaShare = .whole, _ context: ComputeContext
    ) throws -> [Int: TensorPiece] {
        let me = communicator.rank
        var slots: [Int: [TensorPiece]] = [:]
        var requests: [Request] = []
        // Tags count down from the top, away from those of the schedule's own messages.
        var tag = communicator.largestTag
        for (index, ranks) in useRanks.enumerated() {
            defer { if holders[index].count > 1 { tag -= ranks.count } }
            guard holders[index].contains(me) else { continue }
            let range = share.range(of: parameters[index].shape.count)
            slots[index] = try ranks.enumerated().map { useIndex, owner in
                guard owner != me else {
                    let gradient = TensorPiece(of: parameters[index].uses[useIndex].gradient(context), range)
                    for peer in holders[index] where peer != me {
                        let bytes = UnsafeRawBufferPointer(start: gradient.pointer, count: gradient.count * 4)
                        requests.append(try communicator.send(bytes, to: peer, tag: tag - useIndex))
                    }
                    return gradient
                }
                // The first slot takes the sum below, and outlives the messages.
                let category = useIndex == 0 ? MemoryCategory.gradients : .messages
                let arriving = TensorPiece(holding: range, context.tensor(Shape(range.count), category))
                let bytes = UnsafeMutableRawBufferPointer(start: arriving.pointer, count: arriving.count * 4)
                requests.append(try communicator.receive(into: bytes, from: owner, tag: tag - useIndex))
                return arriving
            }
        }
        try Request.waitAll(requests)
        // Nobody needs the first slot by itself any more.
        return slots.mapValues { slots in
            for slot in slots.dropFirst() {
                Elementwise.add(slot.pointer, to: slots[0].pointer, count: slots[0].count, threads: context.threads)
            }
            return slots[0]
        }
    }
}
