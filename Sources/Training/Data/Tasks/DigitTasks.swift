public import Models

/// Copying: a number, the separator, the number again.
///
/// The layout of this, `ReverseTask` and `AdditionTask` is question, separator, answer, end. The answer and the end are to be
/// predicted, each from the true tokens before it; a sequence that is right from end to end is therefore also what the
/// model writes by itself. What a row leaves is blank, and the start of the question is uniform in it, so that
/// positions say nothing of places: train with room (`train.sequence_length` above `2n + 1`), test at other lengths with
/// `seqtrain eval CONFIG data.digits=… train.sequence_length=…`.
///
/// Tokens: 0 blank, `1...base` the digits from 0 up, then separator, end and, in additions, the plus.
/// Keys: `digits` n (as many as fit), `minimum_digits` (n: all examples as long; else uniform between them), `base` (10).
/// Source: arXiv 1807.03819, section 3.3, without the encoder.
public struct CopyTask: GeneratedTask {
    public static let name = "copy"
    public static let showsTargets = true
    public var vocabularySize: Int { layout.vocabularySize }
    private let layout: DigitLayout

    public init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError) {
        layout = try DigitLayout(reader, length: length, perDigit: 2, extra: 1)
    }

    public func example(_ random: inout TaskRandom) -> TaskExample {
        let number = layout.number(random: &random)
        return layout.example(question: number, answer: number, random: &random)
    }
}

/// Reversal: a number, the separator, its digits from the last to the first. Keys, tokens and layout are those of
/// `CopyTask`.
public struct ReverseTask: GeneratedTask {
    public static let name = "reverse"
    public static let showsTargets = true
    public var vocabularySize: Int { layout.vocabularySize }
    private let layout: DigitLayout

    public init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError) {
        layout = try DigitLayout(reader, length: length, perDigit: 2, extra: 1)
    }

    public func example(_ random: inout TaskRandom) -> TaskExample {
        let number = layout.number(random: &random)
        return layout.example(question: number, answer: number.reversed(), random: &random)
    }
}

/// Addition: two numbers of n digits each with the plus between them, the separator, their sum of n + 1 digits, with leading
/// zeros where there are any. Keys, tokens and layout are those of `CopyTask`, but a row needs `3n + 3` tokens.
///
/// Key: `little_endian` (false): all three numbers start with the ones, so that carries go the way of the reader.
public struct AdditionTask: GeneratedTask {
    public static let name = "addition"
    public static let showsTargets = true
    public var vocabularySize: Int { layout.vocabularySize + 1 }
    private let layout: DigitLayout
    private let isLittleEndian: Bool

    public init(_ reader: ConfigurationReader, length: Int) throws(ConfigurationError) {
        layout = try DigitLayout(reader, length: length, perDigit: 3, extra: 3)
        isLittleEndian = try reader.bool("little_endian", default: false)
    }

    public func example(_ random: inout TaskRandom) -> TaskExample {
        let first = layout.number(random: &random)
        let second = layout.number(digits: first.count, random: &random)
        var sum: [Int] = []
        var carry = 0
        for (a, b) in zip(first, second).reversed() {
            sum.append((a + b + carry) % layout.base)
            carry = (a + b + carry) / layout.base
        }
        sum.append(carry)
        let plus = [layout.base + 2]
        return isLittleEndian
            ? layout.example(question: first.reversed() + plus + second.reversed(), answer: sum, random: &random)
            : layout.example(question: first + plus + second, answer: sum.reversed(), random: &random)
    }
}

/// Questions and answers as symbols, which are tokens but for the blank: the digits' values, then separator, end, plus.
private struct DigitLayout: Sendable {
    let base: Int
    /// `T`.
    private let length: Int
    private let digits: ClosedRange<Int>

    /// Blank, digits, separator, end.
    var vocabularySize: Int { base + 3 }

    /// An example of `n` digits has `perDigit · n + extra` inputs.
    init(_ reader: ConfigurationReader, length: Int, perDigit: Int, extra: Int) throws(ConfigurationError) {
        self.length = length
        base = try reader.int("base", default: 10, in: 2...1 << 20)
        if length < perDigit + extra { throw reader.tooShort("task", length: length, needed: perDigit + extra) }
        let count = try reader.int("digits", default: (length - extra) / perDigit, in: 1...1 << 20)
        let needed = perDigit * count + extra
        if length < needed { throw reader.tooShort("digits", length: length, needed: needed) }
        digits = try reader.int("minimum_digits", default: count, in: 1...count)...count
    }

    /// Uniform digits, as many as the example has.
    func number(random: inout TaskRandom) -> [Int] {
        number(digits: digits.lowerBound + random.below(digits.count), random: &random)
    }

    func number(digits: Int, random: inout TaskRandom) -> [Int] { (0..<digits).map { _ in random.below(base) } }

    func example(question: [Int], answer: [Int], random: inout TaskRandom) -> TaskExample {
        let tokens = (question + [base] + answer + [base + 1]).map { Int32(1 + $0) }
        var example = TaskExample(length: length)
        let start = random.below(length - tokens.count + 2)
        example.inputs.replaceSubrange(start..<start + tokens.count - 1, with: tokens.dropLast())
        for place in question.count..<tokens.count - 1 { example.targets[start + place] = tokens[place + 1] }
        return example
    }
}
