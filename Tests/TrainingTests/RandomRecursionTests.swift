import Communication
import Testing
import Training

/// Promise P1 where nobody thought of the case: models that spend depth and layouts, both drawn at random.
@Suite struct RandomRecursionTests {
    @Test func anyLayoutTrainsTheSameBits() throws {
        var compared = 0
        for seed in 0..<12 {
            var random = RandomRecursion(seed: seed)
            guard let reference = try outcome(random, 1, 4096, [:]) else { continue }
            for _ in 0..<3 {
                let (ranks, eagerLimit, settings) = random.layout()
                guard let result = try outcome(random, ranks, eagerLimit, settings) else { continue }
                compared += 1
                let differences = result.differences(from: reference)
                #expect(differences.isEmpty, "seed \(seed), \(ranks) ranks, \(settings):\n\(random)\n\(differences)")
            }
        }
        #expect(compared >= 20)
    }

    /// Nil when the configuration is refused.
    private func outcome(
        _ random: RandomRecursion, _ ranks: Int, _ eagerLimit: Int, _ settings: [String: String]
    ) throws -> RunResult? {
        var fixture = random.fixture
        fixture.parallel = ["threads": "1"].merging(fixture.parallel) { $1 }.merging(settings) { $1 }
        do {
            return try fixture.train(
                ranks: ranks, eagerLimit: eagerLimit, isStream: random.isStream, withGradients: true)
        } catch let failure as RankFailure {
            guard RunError.exitCode(of: failure.underlying) == 2 else {
                Issue.record("\(random)\n\(ranks) \(settings): \(failure)")
                return nil
            }
            return nil
        }
    }
}
