import Autograd
import Communication
import Kernels
import Tensors

/// One of the nearly equal, contiguous shares of what replicas have in common: the micro-batches of a batch, or the
/// elements of a parameter in flat, row-major order.
public struct ReplicaShare: Hashable, Sendable {
    public let replica, replicaCount: Int

    /// The only share of a run without replicas.
    public static let whole = ReplicaShare(replica: 0, of: 1)

    public init(replica: Int, of replicaCount: Int) {
        require(
            (0..<replicaCount).contains(replica),
            "ReplicaShare: got replica \(replica); expected one of \(replicaCount)")
        self.replica = replica
        self.replicaCount = replicaCount
    }

    /// The last replica's share is never smaller than another's.
    public func range(of count: Int) -> Range<Int> {
        count * replica / replicaCount..<count * (replica + 1) / replicaCount
    }

    public func of(replica: Int) -> ReplicaShare { ReplicaShare(replica: replica, of: replicaCount) }
}

/// Some elements of a parameter-shaped quantity.
public struct TensorPiece {
    /// Holds the elements, possibly among others.
    public let tensor: Tensor
    /// Which elements of the parameter they are, in flat order.
    public let range: Range<Int>
    private let offset: Int

    /// The elements `range` of a tensor that has all of them; all unless said otherwise.
    public init(of whole: Tensor, _ range: Range<Int>? = nil) {
        tensor = whole
        self.range = range ?? 0..<whole.count
        offset = self.range.lowerBound
    }

    /// A tensor that has nothing but the elements `range`.
    public init(holding range: Range<Int>, _ tensor: Tensor) {
        require(tensor.count == range.count, "TensorPiece: got \(tensor.count) elements; expected \(range.count)")
        self.tensor = tensor
        self.range = range
        offset = 0
    }

    public var pointer: UnsafeMutablePointer<Float> { tensor.pointer + offset }
    public var count: Int { range.count }
}

/// What the replicas of one rank tell each other in a training step (ZeRO stage 1, arXiv 1910.02054): every replica
/// gets the sum of one piece of each gradient, updates that piece, and sends it to the others.
///
/// Gradients are cut per use-site, so that those of a stage can leave as soon as the stage has its last one. Pieces are
/// added in replica order, whichever arrives first; so a run repeats itself to the last bit, while runs with other
/// numbers of replicas differ by the rounding of sums that are grouped in another way.
///
/// All functions are collective over the replicas of a rank, in the same order on each. The messages' tags count
/// use-sites, then parameters. They cannot meet those of a schedule, whose messages stay inside one replica.
public final class ReplicaExchange {
    /// A use-site's gradient on its way: what the other replicas have of this one's piece, by replica.
    private struct PendingSum {
        var gradient: Tensor
        var arriving: [Tensor?]
        var requests: [Request] = []
    }

    public let share: ReplicaShare
    /// Bytes handed to the transport so far.
    public private(set) var bytesSent = 0
    private let communicator: any Communicator
    private let context: ComputeContext
    /// First tag of each parameter's use-sites.
    private let useTags: [ObjectIdentifier: Int]
    /// Tag of parameter 0's value; the one after the last parameter's is for `collect`.
    private let valueTag, collectTag: Int
    private var sums: [PendingSum] = []
    private var gathers: [Request] = []

    /// - Parameters:
    ///   - communicator: the replicas of this rank, by replica.
    ///   - parameters: of the whole model, in canonical order.
    /// - Throws: `ScheduleError.tooManyMessages` when the transport has too few tags.
    public init(
        parameters: [Parameter], communicator: any Communicator, context: ComputeContext
    ) throws(ScheduleError) {
        self.communicator = communicator
        self.context = context
        share = ReplicaShare(replica: communicator.rank, of: communicator.size)
        var useTags: [ObjectIdentifier: Int] = [:]
        var tag = 0
        for parameter in parameters {
            useTags[ObjectIdentifier(parameter)] = tag
            tag += parameter.uses.count
        }
        self.useTags = useTags
        valueTag = tag
        collectTag = tag + parameters.count
        guard collectTag <= communicator.largestTag else {
            throw .tooManyMessages(count: collectTag + 1, limit: communicator.largestTag + 1)
        }
    }

    // MARK: Gradients

    /// Starts to sum the gradients of these use-sites over replicas; does not wait. The gradients must not change
    /// until `completeSums` has put the sums into this replica's piece of each; the rest is then of no use.
    public func startSums(_ uses: some Sequence<ParameterUse>) throws(CommunicationError) {
        for use in uses {
            let gradient = use.gradient(context)
            let tag = useTags[ObjectIdentifier(use.parameter)]! + use.index
            let own = share.range(of: gradient.count)
            var sum = PendingSum(
                gradient: gradient, arriving: Array(repeating: nil, count: share.replicaCount))
            for peer in peers {
                let arriving = context.tensor(Shape(own.count), .messages)
                try receive(arriving.pointer, 0..<own.count, from: peer, tag, &sum.requests)
                sum.arriving[peer] = arriving
            }
            for peer in peers {
                try send(
                    gradient.pointer, share.of(replica: peer).range(of: gradient.count), to: peer, tag, &sum.requests)
            }
            sums.append(sum)
        }
    }

    /// Waits for what `startSums` has started.
    public func completeSums() throws(CommunicationError) {
        for sum in sums {
            try Request.waitAll(sum.requests)
            add(sum)
        }
        sums.removeAll()
    }

    /// `((g₀ + g₁) + g₂) + …` in place of this replica's `g`. Those before it are added up first; the sum of two does
    /// not depend on which comes first.
    private func add(_ sum: PendingSum) {
        let own = share.range(of: sum.gradient.count)
        let total = sum.gradient.pointer + own.lowerBound
        func add(_ x: UnsafePointer<Float>, to y: UnsafeMutablePointer<Float>) {
            Elementwise.add(x, to: y, count: own.count, threads: context.threads)
        }
        let parts = sum.arriving.map { $0?.pointer }
        for before in parts[..<share.replica].dropFirst() { add(before!, to: parts[0]!) }
        if share.replica > 0 { add(parts[0]!, to: total) }
        for after in parts[(share.replica + 1)...] { add(after!, to: total) }
    }

    // MARK: Values

    /// Starts to bring the replicas' pieces of a tensor of parameter `index` together, in place; each has filled its
    /// own. The tensor must stay alive until `completeGathers`.
    public func startGather(_ tensor: Tensor, parameter index: Int) throws(CommunicationError) {
        for peer in peers {
            try receive(
                tensor.pointer, share.of(replica: peer).range(of: tensor.count), from: peer, valueTag + index, &gathers)
        }
        for peer in peers {
            try send(tensor.pointer, share.range(of: tensor.count), to: peer, valueTag + index, &gathers)
        }
    }

    /// Waits for what `startGather` has started.
    public func completeGathers() throws(CommunicationError) {
        try Request.waitAll(gathers)
        gathers.removeAll()
    }

    /// Brings elements that lie apart to replica 0.
    ///
    /// - Parameters:
    ///   - own: the elements of this replica.
    ///   - whole: where replica 0 wants all of them, its own being there already; not looked at elsewhere.
    ///   - range: the elements of a share.
    public func collect(
        _ own: UnsafePointer<Float>, into whole: UnsafeMutablePointer<Float>?, range: (ReplicaShare) -> Range<Int>
    ) throws(CommunicationError) {
        var requests: [Request] = []
        if share.replica > 0 {
            try send(own, 0..<range(share).count, to: 0, collectTag, &requests)
        } else {
            for peer in peers {
                try receive(whole!, range(share.of(replica: peer)), from: peer, collectTag, &requests)
            }
        }
        try Request.waitAll(requests)
    }

    // MARK: Messages

    /// Gives up what is under way, after an error: buffers may go afterwards.
    public func abandon() {
        for request in sums.flatMap(\.requests) + gathers { request.cancel() }
        sums.removeAll()
        gathers.removeAll()
    }

    private var peers: [Int] { (0..<share.replicaCount).filter { $0 != share.replica } }

    // Small parameters leave some replicas nothing; both ends know, and no message is sent.

    private func receive(
        _ base: UnsafeMutablePointer<Float>, _ range: Range<Int>, from peer: Int, _ tag: Int,
        _ requests: inout [Request]
    ) throws(CommunicationError) {
        guard !range.isEmpty else { return }
        let bytes = UnsafeMutableRawBufferPointer(start: base + range.lowerBound, count: range.count * 4)
        requests.append(try communicator.receive(into: bytes, from: peer, tag: tag))
    }

    private func send(
        _ base: UnsafePointer<Float>, _ range: Range<Int>, to peer: Int, _ tag: Int, _ requests: inout [Request]
    ) throws(CommunicationError) {
        guard !range.isEmpty else { return }
        let bytes = UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count * 4)
        requests.append(try communicator.send(bytes, to: peer, tag: tag))
        bytesSent += bytes.count
    }
}
