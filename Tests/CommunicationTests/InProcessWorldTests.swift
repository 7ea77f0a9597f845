import Communication
import Testing

@Suite struct InProcessWorldTests {
    @Test func resultsComeByRank() throws {
        let ranks = try InProcessWorld.run(size: 3) { $0.rank }
        #expect(ranks == [0, 1, 2])
    }
}
