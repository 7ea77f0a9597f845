import Foundation

/// What one progress report says.
public struct ProgressReport: Sendable {
    public var step, stepCount: Int
    /// Nats per token.
    public var loss: Double
    /// What the objective has beside it, by term.
    public var auxiliary: [String: Double] = [:]
    public var validationLoss: Double?
    /// Share of counted tokens that are predicted right.
    public var validationAccuracy: Double?
    public var learningRate: Double
    public var gradientNorm: Double
    public var tokensPerSecond: Double
    /// Share of the step that ranks spent waiting, mean over ranks.
    public var bubble: Double
    public var secondsLeft: Double

    /// The auxiliary terms in order, those of exits in one.
    fileprivate var shortTerms: [(term: String, value: Double)] {
        let short = auxiliary.map { ($0.key.hasPrefix("exit_") ? "exits" : $0.key, $0.value) }
        return Dictionary(grouping: short, by: \.0).sorted { $0.key < $1.key }.map { term, entries in
            (term, entries.map(\.1).sorted().reduce(0, +))
        }
    }
}

/// One live line on a terminal; a plain line per interval elsewhere (log files, pipes).
public final class ProgressDisplay {
    private let isTerminal: Bool
    private let output: (String) -> Void
    private var hasLiveLine = false

    public init(
        isTerminal: Bool = isatty(STDERR_FILENO) == 1,
        output: @escaping (String) -> Void = ProgressDisplay.standardError
    ) {
        self.isTerminal = isTerminal
        self.output = output
    }

    public static func standardError(_ text: String) { FileHandle.standardError.write(Data(text.utf8)) }

    public func show(_ report: ProgressReport, isMilestone: Bool) {
        let width = String(report.stepCount).count
        let step = String(repeating: " ", count: max(0, width - String(report.step).count)) + String(report.step)
        var line = "step \(step)/\(report.stepCount)"
        if isTerminal {
            let filled = report.stepCount == 0 ? 0 : 20 * report.step / report.stepCount
            line += " [" + String(repeating: "=", count: filled) + String(repeating: " ", count: 20 - filled) + "]"
        }
        line += String(format: "  loss %.4f", report.loss)
        for (term, value) in report.shortTerms { line += String(format: "  %@ %.3g", term, value) }
        if let validation = report.validationLoss { line += String(format: "  valid %.4f", validation) }
        if let accuracy = report.validationAccuracy { line += String(format: "  right %.2f %%", 100 * accuracy) }
        line += String(
            format: "  lr %.2e  norm %.2f  %.0f tokens/s  bubble %.1f %%  left ", report.learningRate,
            report.gradientNorm, report.tokensPerSecond, 100 * report.bubble)
        line += Self.duration(report.secondsLeft)
        if isTerminal {
            output("\r\u{1b}[K" + line + (isMilestone ? "\n" : ""))
            hasLiveLine = !isMilestone
        } else if isMilestone {
            output(line + "\n")
        }
    }

    /// Other messages stand on lines of their own.
    public func message(_ text: String) {
        if hasLiveLine { output("\n") }
        hasLiveLine = false
        output(text + "\n")
    }

    static func duration(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds < 1e8 else { return "?" }
        let total = Int(seconds.rounded())
        if total >= 3600 { return String(format: "%d:%02d:%02d", total / 3600, total / 60 % 60, total % 60) }
        return String(format: "%d:%02d", total / 60, total % 60)
    }
}
