import Pipeline
import TestSupport
import Testing
import Training

/// Promise P1 for recursions: unrolled over any stages, on one ring, on several rings, the same bits.
@Suite struct RingInvarianceTests {
    /// A shared block of what can be shared, with blocks round it, dropout, tied embeddings, and what each application
    /// has for itself.
    static let models = [
        "recursive": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        tie_embeddings: true
        skips: [{ from: 1, to: 14 }]
        layers:
          - { mixer: { type: gru } }
          - recursion: { count: 3 }
            layers:
              - { repeat: 2, mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }
              - { repeat: 2, mixer: { type: mingru } }
          - { mixer: { type: attention, head_count: 2 } }
        """,
        "relaxed": """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        layers:
          - recursion: { count: 4, share_norms: false, relaxation: { rank: 2, targets: [q_proj, up_proj] } }
            layers:
              - { repeat: 4, mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }
        """,
    ]

    static func fixture(_ model: String, _ cut: (Int, Int), _ settings: [String: String] = [:]) -> RunFixture {
        var parallel = ["micro_batches": "\(cut.0)", "threads": "1"]
        if cut.1 > 1 { parallel["chunks"] = "\(cut.1)" }
        return RunFixture(model: models[model]!, parallel: parallel.merging(settings) { $1 }, batch: 5, time: 9)
    }

    /// Placements with the ranks to try them on; 8 ranks are two rings here, 3 a ring with unequal slices.
    static let layouts: [(ranks: Int, settings: [String: String])] = [
        (1, ["placement": "ring"]), (2, ["placement": "ring"]), (3, ["placement": "ring"]), (4, ["placement": "ring"]),
        (4, ["placement": "ring", "rings": "2"]), (8, ["placement": "ring"]),
        (2, ["schedule": "zb_h1"]), (3, ["schedule": "zb_v"]), (4, ["schedule": "gpipe"]),
    ]

    @Test(arguments: models.keys.sorted(), [(1, 1), (4, 1), (5, 3)])
    func everyPlacementTrainsTheSameBits(model: String, cut: (Int, Int)) throws {
        let reference = try Self.fixture(model, cut).train(ranks: 1)
        #expect(Set(reference.losses).count == 3)
        let rings = ScheduleCatalog.names.filter { ScheduleCatalog.placementKinds($0).contains(.ring) }
        for (number, (ranks, settings)) in Self.layouts.enumerated() {
            for schedule in settings["schedule"].map({ [$0] }) ?? rings {
                var settings = settings
                settings["schedule"] = schedule
                settings["rematerialize"] = ["never", "always", "except_last"][number % 3]
                let differences = try Self.fixture(model, cut, settings).train(ranks: ranks)
                    .differences(from: reference)
                #expect(differences.isEmpty, "\(model), \(ranks) ranks, \(settings): \(differences)")
            }
        }
    }

    @Test func memoryOfARingStaysBelowTheLayoutsPrediction() throws {
        for schedule in ["interleaved", "breadth_first", "zb_interleaved"] {
            var fixture = Self.fixture("relaxed", (4, 1), ["placement": "ring", "schedule": schedule])
            fixture.model = fixture.model.replacing("width: 8", with: "width: 64")
            fixture.time = 64
            let peaks = try fixture.peakBytes(ranks: 4)
            for (rank, (measured, predicted)) in peaks.enumerated() {
                #expect(measured <= predicted, "\(schedule), rank \(rank): \(measured) bytes, not \(predicted)")
            }
        }
    }
}
