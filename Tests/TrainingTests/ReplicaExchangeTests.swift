import Autograd
import Communication
import Pipeline
import Tensors
import TestSupport
import Testing

/// Sums over replicas, piece by piece, in replica order.
@Suite struct ReplicaExchangeTests {
    /// Sizes with empty pieces, ragged ones, and messages above the eager limit.
    private static let counts = [1, 2, 3, 7, 64, 1000, 5003]

    /// Parameters with as many use-sites as their place in `counts`, at most 3.
    private func parameters() -> [Parameter] {
        Self.counts.enumerated().map { index, count in
            let parameter = Parameter(
                name: "p\(index)", shape: Shape(count), initializer: .constant(0), decays: false)
            for _ in 0..<min(index + 1, 3) { _ = parameter.addUse() }
            return parameter
        }
    }

    private func gradient(_ replica: Int, _ parameter: Int, _ use: Int) -> [Float] {
        randomFloats(Self.counts[parameter], seed: UInt64(1000 * replica + 10 * parameter + use))
    }

    @Test(arguments: [1, 2, 3, 4, 7], [-1, 4096]) func sumsAreInReplicaOrder(replicas: Int, eagerLimit: Int) throws {
        _ = try InProcessWorld.run(size: replicas, eagerLimit: eagerLimit, timeout: 20) { communicator in
            let late = FaultyCommunicator(communicator, .delay(seed: UInt64(communicator.rank), polls: 50))
            let context = ComputeContext()
            let parameters = parameters()
            let exchange = try ReplicaExchange(parameters: parameters, communicator: late, context: context)
            for (p, parameter) in parameters.enumerated() {
                for (u, use) in parameter.uses.enumerated() {
                    let (tensor, _) = use.writableGradient(context)
                    tensor.copy(from: gradient(communicator.rank, p, u), count: tensor.count)
                }
            }
            // Two buckets under way at once.
            try exchange.startSums(parameters[3...].flatMap(\.uses))
            try exchange.startSums(parameters[..<3].flatMap(\.uses))
            try exchange.completeSums()
            #expect(context.pool.liveBytes(.messages) == 0)
            for (p, parameter) in parameters.enumerated() {
                for (u, use) in parameter.uses.enumerated() {
                    var expected = gradient(0, p, u)
                    for replica in 1..<max(replicas, 1) {
                        for (i, g) in gradient(replica, p, u).enumerated() { expected[i] += g }
                    }
                    let range = exchange.share.range(of: expected.count)
                    let got = use.gradient(context).array
                    #expect(got[range].map(\.bitPattern) == expected[range].map(\.bitPattern), "\(p), use \(u)")
                }
            }
        }
    }

    @Test(arguments: [2, 3, 5]) func gatherAndCollectRestoreTheWhole(replicas: Int) throws {
        _ = try InProcessWorld.run(size: replicas, eagerLimit: -1, timeout: 20) { communicator in
            let context = ComputeContext()
            let exchange = try ReplicaExchange(parameters: parameters(), communicator: communicator, context: context)
            let wholes = Self.counts.indices.map { gradient(0, $0, 0) }
            func ownPart(_ whole: [Float]) -> Tensor {
                let tensor = context.tensor(Shape(whole.count))
                let range = exchange.share.range(of: whole.count)
                for i in range { tensor.pointer[i] = whole[i] }
                return tensor
            }
            let gathered = wholes.map(ownPart)
            for (index, tensor) in gathered.enumerated() { try exchange.startGather(tensor, parameter: index) }
            try exchange.completeGathers()
            #expect(gathered.map(\.array) == wholes)
            for whole in wholes {
                let tensor = ownPart(whole)
                let own = tensor.pointer + exchange.share.range(of: whole.count).lowerBound
                try exchange.collect(own, into: tensor.pointer) { $0.range(of: whole.count) }
                if communicator.rank == 0 { #expect(tensor.array == whole) }
            }
        }
    }

    @Test func sharesCoverEverythingOnce() {
        for count in [0, 1, 5, 16] {
            for replicas in 1...6 {
                let shares = (0..<replicas).map { ReplicaShare(replica: $0, of: replicas).range(of: count) }
                #expect(shares.flatMap { Array($0) } == Array(0..<count))
                #expect(shares.last!.count == shares.map(\.count).max())
            }
        }
    }
}
