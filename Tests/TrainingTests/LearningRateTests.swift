import Foundation
import Models
import Testing
import Training

@Suite struct LearningRateTests {
    private func schedule(_ settings: String, steps: Int = 100) throws -> LearningRateSchedule {
        let text = """
            train: { steps: \(steps), batch_size: 1, sequence_length: 1 }
            learning_rate: { \(settings) }
            """
        return try RunConfiguration(ConfigurationReader(YAMLConfiguration.parse(text, file: "a.yaml"))).learningRate
    }

    private static let shapes: [(String, [Double])] = [
        ("schedule: constant", [1, 1, 1]),
        ("schedule: linear, minimum: 0.1", [1, 0.55, 0.1]),
        ("schedule: cosine, minimum: 0.1", [1, 0.55, 0.1]),
        ("schedule: inverse_sqrt", [1, 0.5773502691896258, 0.4472135954999579]),
        ("schedule: wsd, minimum: 0.1, decay_steps: 50", [1, 0.82, 0.1]),
        ("schedule: wsd, minimum: 0.1", [1, 1, 0.1]),
    ]

    /// At steps 1, w, (w + N)/2 and N against the closed forms, with peak 1, minimum 0.1, w 20, N 100.
    @Test(arguments: shapes)
    func shapesFollowTheirFormulas(settings: String, expected: [Double]) throws {
        let schedule = try schedule("\(settings), peak: 1, warmup_steps: 20")
        #expect(schedule.rate(step: 1) == 0.05)
        #expect(schedule.rate(step: 19) == 0.95)
        for (step, rate) in zip([20, 60, 100], expected) {
            #expect(abs(schedule.rate(step: step) - rate) < 1e-12, "step \(step): \(schedule.rate(step: step))")
        }
    }

    @Test func theCosineIsACosine() throws {
        let schedule = try schedule("schedule: cosine, peak: 2, minimum: 1, warmup_steps: 0")
        for step in [1, 25, 75, 99] {
            #expect(abs(schedule.rate(step: step) - (1.5 + 0.5 * cos(.pi * Double(step) / 100))) < 1e-12)
        }
    }

    @Test func aWarmUpLongerThanTheRunOnlyRises() throws {
        let schedule = try schedule("schedule: cosine, peak: 1, warmup_steps: 200")
        #expect(schedule.rate(step: 100) == 0.5)
        #expect((1...100).allSatisfy { schedule.rate(step: $0) == Double($0) / 200 })
    }

    @Test(arguments: [
        (
            "schedule: cosin, peak: 1",
            "a.yaml:2:28: 'learning_rate.schedule' must be one of constant, linear, cosine, wsd, inverse_sqrt; found 'cosin'; did you mean 'cosine'?"
        ),
        ("schedule: linear, peak: 1, minimum: 2", "a.yaml:2:54: 'learning_rate.minimum': 2.0 is above the peak 1.0"),
        (
            "schedule: inverse_sqrt, peak: 1",
            "a.yaml:2:16: 'learning_rate.warmup_steps': inverse_sqrt is scaled by the warm-up; set warmup_steps of at least 1"
        ),
    ])
    func badSchedulesAreExplained(settings: String, text: String) {
        let got = message { _ = try schedule(settings) }
        #expect(got == text)
    }
}
