import Foundation
import Pipeline
import TestSupport
import Testing
import Training

/// Promises P1 and P2: every schedule trains the same bits.
@Suite struct ScheduleInvarianceTests {
    /// Twelve layers to cut, long skips, tied embeddings, dropout: what schedules could get wrong.
    static let model = """
        vocabulary_size: 29
        width: 8
        dropout: 0.1
        tie_embeddings: true
        skips: [{ from: 0, to: 11 }, { from: 2, to: 9 }, { from: 2, to: 11 }, { from: 3, to: 6 }]
        layers:
          - repeat: 5
            layers:
              - { mixer: { type: gru } }
              - { mixer: { type: attention, head_count: 2 }, mlp: { hidden_size: 10 } }
        """

    static func fixture(_ microBatches: Int, _ chunks: Int, _ settings: [String: String] = [:]) -> RunFixture {
        let shape = ["micro_batches": "\(microBatches)", "chunks": "\(chunks)", "threads": "1"]
        return RunFixture(model: model, parallel: shape.merging(settings) { $1 }, batch: 7, time: 9)
    }

    /// Ranks and stages per rank that a schedule is tried with.
    static func layouts(_ name: String) -> [(ranks: Int, virtualStages: Int?)] {
        switch ScheduleCatalog.placementKind(name)! {
        case .contiguous: [(1, nil), (2, nil), (3, nil), (5, nil)]
        case .interleaved, .ring: [(1, 3), (2, 2), (3, 4), (4, 3)]
        case .vShape: [(1, nil), (2, nil), (3, nil), (6, nil)]
        }
    }

    /// Micro-batches and chunks: fewer than ranks, odd, one.
    static let cuts = [(1, 1), (1, 3), (3, 2), (4, 1), (7, 3)]

    @Test(arguments: cuts.indices) func everyScheduleTrainsTheSameBits(cut: Int) throws {
        let (microBatches, chunks) = Self.cuts[cut]
        let reference = try Self.fixture(microBatches, chunks).train(ranks: 1)
        #expect(Set(reference.losses).count == 3)
        for name in ScheduleCatalog.names {
            for (number, (ranks, virtualStages)) in Self.layouts(name).enumerated() {
                var settings = ["schedule": name]
                if let virtualStages { settings["virtual_stages"] = "\(virtualStages)" }
                settings["rematerialize"] = ["never", "except_last", "[2, 5]"][number % 3]
                let differences = try Self.fixture(microBatches, chunks, settings).train(ranks: ranks)
                    .differences(from: reference)
                #expect(differences.isEmpty, "\(name), \(ranks) ranks, \(settings): \(differences)")
            }
        }
    }

    /// Placements and orders that no generator would think of, read from files as a user's would be.
    @Test(arguments: 0..<12) func randomLegalSchedulesTrainTheSameBits(seed: Int) throws {
        var random = SplitMix(state: UInt64(seed))
        let (ranks, microBatches, chunks) = (1 + random.below(4), 1 + random.below(4), 1 + random.below(3))
        let schedule = RandomSchedule.compute(
            seed: UInt64(seed), rankCount: ranks, microBatchCount: microBatches, chunkCount: chunks)
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("random-\(UUID().uuidString).sched")
        try schedule.text.write(to: file, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(at: file) }
        let reference = try Self.fixture(microBatches, chunks).train(ranks: 1)
        let differences = try Self.fixture(microBatches, chunks, ["schedule": file.path]).train(ranks: ranks)
            .differences(from: reference)
        #expect(differences.isEmpty, "\(schedule.text): \(differences)")
    }

    @Test func memoryOfARunStaysBelowTheLayoutsPrediction() throws {
        // Wide enough for buffers to outweigh the sizes that they are rounded up to.
        let model = """
            vocabulary_size: 29
            width: 64
            skips: [{ from: 0, to: 7 }]
            layers: [{ repeat: 3, layers: [{ mixer: { type: gru } }, { mixer: { type: attention, head_count: 2 } }] }]
            """
        for name in ScheduleCatalog.names {
            var fixture = Self.fixture(7, 2, ["schedule": name])
            (fixture.model, fixture.time) = (model, 64)
            let peaks = try fixture.peakBytes(ranks: 2)
            for (rank, (measured, predicted)) in peaks.enumerated() {
                #expect(measured <= predicted, "\(name), rank \(rank): \(measured) bytes, not \(predicted)")
            }
        }
    }

    /// One mixer of every kernel family, in chunks and over ranks.
    static let families = [
        "{ type: slstm, head_count: 2 }", "{ type: mingru }", "{ type: flashrnn, head_count: 2, function: lstm }",
        "{ type: mamba }", "{ type: s4d }", "{ type: lru }", "{ type: rwkv4_time_mix }",
        "{ type: mamba2, head_size: 8 }",
        "{ type: gla, head_count: 2 }", "{ type: mlstm, head_count: 2 }", "{ type: gated_deltanet, head_count: 2 }",
        "{ type: deltaproduct, head_count: 2 }", "{ type: aaren, head_count: 2 }",
    ]

    @Test(arguments: families) func everyFamilyTrainsTheSameBits(mixer: String) throws {
        func fixture(_ settings: [String: String]) -> RunFixture {
            var fixture = Self.fixture(4, 3, settings)
            fixture.model = """
                vocabulary_size: 29
                width: 16
                layers: [{ repeat: 3, mixer: \(mixer), mlp: { hidden_size: 12 } }]
                """
            fixture.time = 70
            return fixture
        }
        let reference = try fixture([:]).train(ranks: 1)
        #expect(Set(reference.losses).count == 3)
        for (ranks, schedule) in [(1, "zb_v"), (2, "zb_h1"), (3, "1f1b"), (2, "interleaved"), (4, "gpipe")] {
            let differences = try fixture(["schedule": schedule, "rematerialize": ranks == 3 ? "always" : "never"])
                .train(ranks: ranks).differences(from: reference)
            #expect(differences.isEmpty, "\(mixer), \(ranks) ranks, \(schedule): \(differences)")
        }
    }
}
