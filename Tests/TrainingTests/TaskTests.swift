import Kernels
import Models
import Pipeline
import Testing
import Training

/// Generated tasks against the rules they are made by, found again from the tokens alone.
@Suite struct TaskTests {
    private func configuration(_ yaml: String, length: Int, batch: Int = 64) throws -> TaskConfiguration {
        let reader = try ConfigurationReader(YAMLConfiguration.parse("{ \(yaml) }", file: "a.yaml"), path: "data")
        let source = try DataSource(reader, directory: ".", batchSize: batch, sequenceLength: length)
        try reader.finish()
        guard case .task(let configuration) = source else { throw ConfigurationProblem() }
        return configuration
    }

    private struct ConfigurationProblem: Error {}

    private func examples(_ yaml: String, length: Int, count: Int = 500) throws -> [TaskExample] {
        let sampler = TaskSampler(try configuration(yaml, length: length), seed: 5)
        return (0..<count).map { sampler.example(.train, step: $0 / 64, sample: $0 % 64) }
    }

    private static let every = [
        "task: copying", "task: copying, selective: true", "task: induction", "task: group",
        "task: multi_query_recall", "task: parity", "task: delayed_match", "task: copy, minimum_digits: 1",
        "task: reverse, digits: 3", "task: addition",
    ]

    // MARK: Batches

    @Test(arguments: every) func batchesAreAFunctionOfSeedSplitAndStep(task: String) throws {
        let configuration = try configuration(task, length: 20, batch: 5)
        let (sampler, again) = (TaskSampler(configuration, seed: 3), TaskSampler(configuration, seed: 3))
        for step in [5, 0, 1_000_000] {
            let batch = sampler.batch(.train, step)
            #expect(batch == again.batch(.train, step))
            #expect(batch.inputs.count == 100 && batch.targets.count == 100 && batch.resetsCarry)
            let third = again.example(.train, step: step, sample: 2)
            #expect(Array(batch.inputs[40..<60]) == third.inputs && Array(batch.targets[40..<60]) == third.targets)
        }
        let others = [
            sampler.batch(.train, 1), sampler.batch(.valid, 0), sampler.batch(.test, 0),
            TaskSampler(configuration, seed: 4).batch(.train, 0),
        ]
        for other in others { #expect(other.inputs != sampler.batch(.train, 0).inputs) }
    }

    /// Rows of a batch may be larger for longer sequences, tokens never are.
    @Test(arguments: every, [20, 33]) func tokensStayInTheVocabulary(task: String, length: Int) throws {
        let size = Int32(try configuration(task, length: length).task.vocabularySize)
        for example in try examples(task, length: length) {
            #expect(example.inputs.count == length && example.targets.count == length)
            #expect(example.inputs.allSatisfy { (0..<size).contains($0) })
            #expect(example.targets.allSatisfy { (-1..<size).contains($0) })
            #expect(example.targets.contains { $0 >= 0 })
        }
    }

    @Test func dataSetsOfTasksHaveEverySplit() throws {
        let configuration = try configuration("task: group, evaluation_examples: 11", length: 6, batch: 4)
        let data = DataSet(configuration, seed: 1)
        #expect(data.vocabulary == .tokens(6) && !data.isStream)
        let valid = Array(try data.evaluationBatches(split: .valid))
        #expect(valid.count == 3 && valid.allSatisfy { $0.rows == 4 && $0.time == 6 && $0.targetCount == 24 })
        #expect(Array(try data.evaluationBatches(split: .valid, limit: 2)).map(\.inputs) == valid[..<2].map(\.inputs))
        #expect(Array(try data.evaluationBatches(split: .test))[0].inputs != valid[0].inputs)
        #expect(data.trainingBatch(step: 1).inputs == TaskSampler(configuration, seed: 1).batch(.train, 0).inputs)
    }

    // MARK: Random numbers

    @Test func distinctNumbersAreEverySequenceEquallyOften() {
        var hits: [[Int]: Int] = [:]
        for sample in 0..<6000 {
            var random = TaskRandom(PhiloxStream(seed: 2, a: UInt32(sample)))
            hits[random.distinct(2, below: 3), default: 0] += 1
        }
        // Six ordered pairs, 1000 ± 29 (one standard deviation).
        #expect(hits.count == 6 && hits.values.allSatisfy { abs($0 - 1000) < 120 }, "\(hits)")
    }

    @Test func weightedDrawsFollowTheirWeights() {
        var first = [0, 0, 0], second = 0
        for sample in 0..<8000 {
            var random = TaskRandom(PhiloxStream(seed: 2, a: UInt32(sample)))
            let drawn = random.distinct(2, weights: [1, 2, 5])
            #expect(drawn[0] != drawn[1])
            first[drawn[0]] += 1
            if drawn == [2, 0] { second += 1 }
        }
        // 1/8, 2/8, 5/8; then 1 of the 3 that are left after the 5: 5/8 · 1/3.
        for (got, expected) in zip(first + [second], [1000, 2000, 5000, 1667]) { #expect(abs(got - expected) < 180) }
    }

    @Test func longDrawsDoNotRepeat() {
        var random = TaskRandom(PhiloxStream(seed: 1))
        let numbers = (0..<1000).map { _ in random.below(1 << 30) }
        #expect(Set(numbers).count == 1000)
        #expect(Set(random.distinct(500, below: 500)).count == 500)
    }

    // MARK: Tasks

    @Test(arguments: [false, true], [false, true]) func copyingRepeatsTheData(selective: Bool, reverse: Bool) throws {
        var places = [Int](repeating: 0, count: 13), tokens = [Int](repeating: 0, count: 6)
        let task = "task: copying, alphabet_size: 6, count: 3, selective: \(selective), reverse: \(reverse)"
        for example in try examples(task, length: 16) {
            #expect(example.inputs[13...] == [5, 5, 5])
            let data = example.inputs[..<13].filter { $0 != 0 }
            #expect(data.count == 3 && data.allSatisfy { (1...4).contains($0) })
            #expect(selective || Array(example.inputs[..<3]) == data)
            #expect(example.targets[..<13].allSatisfy { $0 == Batch.ignored })
            #expect(Array(example.targets[13...]) == (reverse ? data.reversed() : data))
            for (place, input) in example.inputs[..<13].enumerated() where input != 0 {
                places[place] += 1
                tokens[Int(input)] += 1
            }
        }
        // 1500 tokens of 4 kinds, 375 ± 17 each; at 13 places, 115 ± 9 each.
        #expect(tokens[1...4].allSatisfy { abs($0 - 375) < 85 }, "\(tokens)")
        if selective { #expect(places.allSatisfy { abs($0 - 115) < 45 }, "\(places)") }
    }

    @Test func inductionAsksWhatFollowedTheTrigger() throws {
        var places = [Int](repeating: 0, count: 8)
        for example in try examples("task: induction, alphabet_size: 5", length: 10, count: 2000) {
            let triggers = example.inputs.indices.filter { example.inputs[$0] == 4 }
            #expect(triggers.count == 2 && triggers[1] == 9 && triggers[0] < 8)
            #expect(example.targets[9] == example.inputs[triggers[0] + 1])
            #expect(example.targets[..<9].allSatisfy { $0 == Batch.ignored })
            places[triggers[0]] += 1
        }
        #expect(places.allSatisfy { abs($0 - 250) < 75 }, "\(places)")
    }

    @Test(arguments: [(4, 1, true, 20), (5, 2, false, 41), (6, 1, true, 24)])
    func recallAsksForEveryKeyOnce(pairs: Int, passes: Int, fill: Bool, length: Int) throws {
        let task = """
            task: multi_query_recall, alphabet_size: 32, pairs: \(pairs), passes: \(passes), random_fill: \(fill)
            """
        for example in try examples(task, length: length) {
            let start = 2 * pairs * passes
            var values: [Int32: Int32] = [:]
            for place in stride(from: 0, to: start, by: 2) {
                let (key, value) = (example.inputs[place], example.inputs[place + 1])
                #expect((1..<16).contains(key) && (16..<32).contains(value))
                #expect(values[key] == nil || place >= 2 * pairs && values[key] == value)
                values[key] = value
            }
            #expect(values.count == pairs && Set(values.values).count == pairs)
            let asked = example.targets.indices.filter { example.targets[$0] != Batch.ignored }
            #expect(asked.allSatisfy { $0 >= start && ($0 - start) % 2 == 0 })
            #expect(Set(asked.map { example.inputs[$0] }) == Set(values.keys) && asked.count == pairs)
            #expect(asked.allSatisfy { example.targets[$0] == values[example.inputs[$0]] })
            if !fill {
                #expect((start..<length).allSatisfy { asked.contains($0) || example.inputs[$0] == 0 })
            }
        }
    }

    /// Slot g has weight (g + 1)^(a − 1): with one pair and a = 0.01 the first of 8 slots has 1 / Σ (g + 1)^−0.99 = 0.365.
    @Test func recallAsksSoon() throws {
        let examples = try examples("task: multi_query_recall, pairs: 1", length: 18, count: 4000)
        let first = examples.count { $0.targets[2] != Batch.ignored }
        #expect(abs(Double(first) / 4000 - 0.365) < 0.03, "\(first)")
    }

    /// The elements of S3 in lexicographic order, multiplied by hand: 1 = (0 2 1) swaps the last two points, 2 = (1 0 2)
    /// the first two, 3 = (1 2 0); first 1, then 2 sends 0 → 0 → 1, 1 → 2 → 2, 2 → 1 → 0, which is 3.
    @Test func symmetricGroupByHand() throws {
        let task = try #require(try configuration("task: group", length: 64).task as? GroupTask)
        #expect(task.elements == [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
        var seen = false
        for example in try examples("task: group", length: 64) where example.inputs[..<2] == [1, 2] {
            #expect(example.targets[1] == 3)
            seen = true
        }
        #expect(seen)
    }

    @Test(arguments: [("s3", 6), ("s4", 24), ("s5", 120), ("a4", 12), ("a5", 60), ("z2", 2), ("z7", 7)])
    func groupTargetsAreRunningProducts(group: String, order: Int) throws {
        let configuration = try configuration("task: group, group: \(group)", length: 100)
        let task = try #require(configuration.task as? GroupTask)
        #expect(task.vocabularySize == order && Set(task.elements).count == order)
        let points = task.elements[0].count
        #expect(task.elements[0] == Array(0..<points))
        #expect(task.elements.map { $0.map(String.init).joined(separator: " ") }.count == order)
        for (a, b) in zip(task.elements, task.elements.dropFirst()) { #expect(a.lexicographicallyPrecedes(b)) }
        var inputs = [Int](repeating: 0, count: order)
        for example in try examples("task: group, group: \(group)", length: 100, count: 60) {
            // Follow every point through the permutations.
            var images = Array(0..<points)
            for (input, target) in zip(example.inputs, example.targets) {
                images = images.map { task.elements[Int(input)][$0] }
                #expect(task.elements[Int(target)] == images)
                inputs[Int(input)] += 1
            }
        }
        let mean = 6000 / Double(order)
        #expect(inputs.allSatisfy { abs(Double($0) - mean) < 6 * mean.squareRoot() })
    }

    @Test func fewMovedPointsLeaveTheSwaps() throws {
        let inputs = Set(try examples("task: group, group: s4, moved_points: 2", length: 50).flatMap(\.inputs))
        // The identity and the six swaps.
        #expect(inputs.count == 7 && inputs.contains(0))
    }

    @Test func parityCountsTheLastBits() throws {
        let examples = try examples("task: parity, bits: 4", length: 17, count: 3000)
        var lengths = [Int](repeating: 0, count: 18)
        for example in examples {
            let asked = example.targets.indices.filter { example.targets[$0] != Batch.ignored }
            #expect(asked.count == 1)
            let last = asked[0]
            lengths[last + 1] += 1
            #expect(example.targets[last] == example.inputs[last - 3...last].reduce(0, +) % 2)
            #expect(example.inputs[(last + 1)...].allSatisfy { $0 == 0 })
        }
        // Lengths 6 ..< 18, 250 ± 15 each.
        #expect(lengths[..<6].allSatisfy { $0 == 0 } && lengths[6...].allSatisfy { abs($0 - 250) < 75 }, "\(lengths)")
        // With the probability of a one uniform, each count of ones from 0 to 4 is equally likely: 2 odd of 5.
        let odd = examples.count { $0.targets.contains(1) }
        #expect(abs(Double(odd) / 3000 - 0.4) < 0.045, "\(odd)")
    }

    @Test func delayedMatchComparesTheEnds() throws {
        let examples = try examples("task: delayed_match, bits: 5", length: 30, count: 2000)
        for example in examples {
            let last = example.targets.firstIndex { $0 != Batch.ignored }!
            #expect(example.targets[last] == (example.inputs[last] == example.inputs[last - 4] ? 1 : 0))
        }
        #expect(abs(examples.count { $0.targets.contains(1) } - 1000) < 110)
    }

    /// Question and answer of a row, found by the separator and the end, without the blanks in front and behind.
    private func dialogue(_ example: TaskExample, base: Int32) throws -> (
        question: [Int32], answer: [Int32], start: Int
    ) {
        let start = try #require(example.inputs.firstIndex { $0 != 0 })
        let separator = try #require(example.inputs.firstIndex(of: base + 1))
        let end = try #require(example.targets.firstIndex(of: base + 2))
        #expect(example.inputs.indices.allSatisfy { (start...end).contains($0) == (example.inputs[$0] != 0) })
        #expect(example.targets.indices.allSatisfy { (separator...end).contains($0) == (example.targets[$0] >= 0) })
        let answer = Array(example.targets[separator..<end])
        #expect(Array(example.inputs[separator + 1...end]) == answer)
        return (Array(example.inputs[start..<separator]), answer, start)
    }

    @Test(arguments: ["copy", "reverse"]) func digitsComeAgain(task: String) throws {
        var digits = [Int](repeating: 0, count: 8), lengths = digits, starts = digits
        for example in try examples("task: \(task), base: 7, digits: 5, minimum_digits: 3", length: 13, count: 2000) {
            let (question, answer, start) = try dialogue(example, base: 7)
            #expect(answer == (task == "copy" ? question : question.reversed()))
            for token in question { digits[Int(token)] += 1 }
            lengths[question.count] += 1
            if question.count == 3 { starts[start] += 1 }
        }
        // 2000 · 4 digits of 7 kinds, 1143 ± 31 each; 3 to 5 of them, 667 ± 21; a row of 7 inputs in 13 has 7 places.
        #expect(digits[0] == 0 && digits[1...].allSatisfy { abs($0 - 1143) < 150 }, "\(digits)")
        #expect(lengths[..<3] == [0, 0, 0] && lengths[3...5].allSatisfy { abs($0 - 667) < 105 }, "\(lengths)")
        #expect(starts[7] == 0 && starts[..<7].allSatisfy { abs($0 - lengths[3] / 7) < 50 }, "\(starts)")
    }

    @Test(arguments: [false, true]) func sumsAreRight(littleEndian: Bool) throws {
        func value(_ tokens: [Int32]) -> Int {
            (littleEndian ? tokens.reversed() : tokens).reduce(0) { 10 * $0 + Int($1) - 1 }
        }
        for example in try examples("task: addition, little_endian: \(littleEndian)", length: 21) {
            let (question, answer, start) = try dialogue(example, base: 10)
            #expect(start == 0 && question.count == 13 && question[6] == 13 && answer.count == 7)
            #expect(value(Array(question[..<6])) + value(Array(question[7...])) == value(answer))
        }
    }

    // MARK: Mistakes

    @Test(arguments: [
        ("task: copyin", "a.yaml:1:9: 'data.task'"),
        ("task: parity, bits: 5", "'data.bits': needs train.sequence_length 21 or more, but it is 20"),
        ("task: copying, count: 11", "'data.count': needs train.sequence_length 22 or more, but it is 20"),
        ("task: multi_query_recall, pairs: 6", "'data.pairs': needs train.sequence_length 24 or more, but it is 20"),
        ("task: multi_query_recall, alphabet_size: 9", "must be even and at least 10, for 4 pairs"),
        ("task: addition, digits: 6", "'data.digits': needs train.sequence_length 21 or more, but it is 20"),
        ("task: reverse, base: 1", "'data.base'"),
        ("task: copy, digits: 4, minimum_digits: 5", "'data.minimum_digits'"),
        ("task: group, text: a.txt", "unknown key 'text' in 'data'"),
        ("task: group, group: s9", "'data.group'"),
    ])
    func mistakesNameTheirKey(yaml: String, expected: String) {
        let error = #expect(throws: ConfigurationError.self) { try configuration(yaml, length: 20) }
        #expect(error.map { "\($0)" }?.contains(expected) == true, "\(error.map { "\($0)" } ?? "none")")
    }
}
