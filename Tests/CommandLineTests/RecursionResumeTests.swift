import Foundation
import TestSupport
import Testing

/// Recursive depth as a user runs it: interrupted, and continued on another number of ranks and another placement.
@Suite(.serialized) struct RecursionResumeTests {
    /// Steps of sampled depth; capacities that fall over twelve steps; biases that move with the loads.
    private static let recursions = [
        "depth: { mean: 3, backpropagated: 2 }", "count: 3, router: { capacity_warmup_steps: 12 }",
        "count: 3, router: { type: token, balancing: loss_free, bias_step: 0.05 }",
    ]

    @Test(arguments: recursions) func resumesOnAnotherPlacement(recursion: String) throws {
        let space = try Workspace()
        let layers = """
            [{ mixer: { type: gru } }, { recursion: { \(recursion) }, layers: [{ mixer: { type: attention, \
            head_count: 2 }, mlp: { hidden_size: 24 } }, { mixer: { type: lstm } }] }, { mixer: { type: gru } }]
            """
        let run = ["model.layers=\(layers)", "eval.every=0", "checkpoint.every=8", "train.steps=16"]
        try space.run(nil, run + ["checkpoint.directory=\(space.path)/whole"])
        let isMPI = Binary.mpirun != nil
        func go(_ arguments: [String], ranks: Int) throws -> CommandResult {
            let local = isMPI ? [] : ["--local-ranks", "\(ranks)"]
            return try space.run(
                nil, run + arguments + local + ["checkpoint.directory=\(space.path)/parts"], ranks: isMPI ? ranks : nil)
        }
        _ = try go(["parallel.schedule=zb_h1"], ranks: 3)
        // What an interruption right after step 8 leaves behind.
        try FileManager.default.removeItem(atPath: space.path + "/parts/step-00000016")
        let resumed = try go(["parallel.placement=ring", "parallel.schedule=interleaved"], ranks: 2)
        #expect(resumed.errorOutput.contains("resumed from \(space.path)/parts/step-00000008 after step 8"))
        let (parts, whole) = (try space.checkpoint("parts/step-00000016"), try space.checkpoint("whole/step-00000016"))
        #expect(parts.keys.sorted() == whole.keys.sorted())
        for (name, entry) in whole { #expect(parts[name]?.values == entry.values, "\(name)") }
        #expect(try space.losses("parts") == space.losses("whole"))
    }
}
