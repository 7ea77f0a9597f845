import Foundation

/// Draws timelines as a self-contained SVG: a row per rank, a box per action coloured by its kind, one axis of time for
/// all panels, so that a predicted step stands above the measured one and compares at a glance.
///
/// Boxes carry the micro-batch (and chunk) where they are wide enough, and the whole action with its times as tooltip.
/// Time in which a rank waits for messages is grey where the timeline has it, else empty.
public enum TimelinePicture {
    /// The rows of one picture among several.
    public struct Panel: Sendable {
        public var title: String
        /// One per rank; seconds, from any common origin.
        public var timelines: [[TimedAction]]

        public init(title: String, timelines: [[TimedAction]]) {
            self.title = title
            self.timelines = timelines
        }
    }

    private static let width = 1200.0
    private static let left = 70.0
    private static let right = 110.0
    private static let row = 22.0
    private static let colours: [(kinds: [Action.Kind], name: String, colour: String)] = [
        ([.forward], "F forward", "#5b8fd6"),
        ([.recompute], "R recompute", "#9ec1e8"),
        ([.backward], "B backward", "#d98c4a"),
        ([.inputGradient], "I input gradient", "#e3b04b"),
        ([.weightGradient], "W weight gradient", "#6aa86a"),
        (
            [
                .sendActivation, .sendGradient, .receiveActivation, .receiveGradient, .waitActivation, .waitGradient,
            ], "messages, waiting", "#c4c4c4"
        ),
        ([.reduceReplicas, .reduceTied], "reductions", "#b07aa1"),
        ([.step], "step", "#7f7f7f"),
    ]

    /// - Parameter title: stands above all panels.
    /// - Returns: an SVG document; boxes narrower than a twentieth of a pixel are left out.
    public static func svg(_ panels: [Panel], title: String = "") -> String {
        let spans = panels.map(Span.init)
        let end = max(spans.map(\.seconds).max() ?? 0, 1e-12)
        let scale = (width - left - right) / end
        var body: [String] = []
        var y = 20.0
        if !title.isEmpty {
            body.append(text(left, y, title, "font-weight=\"bold\" font-size=\"14\""))
            y += 8
        }
        y = legend(at: y + 8, &body)
        for (panel, span) in zip(panels, spans) {
            y += 26
            body.append(text(left, y, panel.title + ": bubble \(percent(span.bubble))", "font-weight=\"bold\""))
            y += 8
            for (rank, timeline) in panel.timelines.enumerated() {
                body.append(text(left - 8, y + row / 2 + 4, "rank \(rank)", "text-anchor=\"end\""))
                body.append(rectangle(left, y + 2, span.seconds * scale, row - 4, "#f2f2f2"))
                for timed in timeline { body += box(timed, span, scale, y) }
                body.append(
                    text(left + end * scale + 8, y + row / 2 + 4, "bubble \(percent(span.bubbles[rank]))", ""))
                y += row
            }
        }
        y = axis(at: y + 4, end, scale, &body)
        let size = "width=\"\(number(width))\" height=\"\(number(y))\" viewBox=\"0 0 \(number(width)) \(number(y))\""
        return "<svg xmlns=\"http://www.w3.org/2000/svg\" \(size) font-family=\"sans-serif\" font-size=\"11\">\n"
            + rectangle(0, 0, width, y, "#ffffff") + "\n" + body.joined(separator: "\n") + "\n</svg>\n"
    }

    /// Where a panel begins, how long it lasts, and the idle share of each rank until the last compute action ends.
    private struct Span {
        var start: Double
        var seconds: Double
        var bubbles: [Double]
        var bubble: Double

        init(_ panel: Panel) {
            let all = panel.timelines.joined()
            start = all.map(\.start).min() ?? 0
            seconds = (all.map(\.end).max() ?? 0) - start
            let compute = panel.timelines.map { $0.filter { $0.action.kind.isCompute } }
            let length = (compute.joined().map(\.end).max() ?? start) - start
            bubbles = compute.map { timeline in
                length > 0 ? 1 - timeline.reduce(0) { $0 + $1.end - $1.start } / length : 0
            }
            bubble = bubbles.isEmpty ? 0 : bubbles.reduce(0, +) / Double(bubbles.count)
        }
    }

    private static func box(_ timed: TimedAction, _ span: Span, _ scale: Double, _ y: Double) -> [String] {
        let action = timed.action
        let x = left + (timed.start - span.start) * scale
        let boxWidth = (timed.end - timed.start) * scale
        guard boxWidth >= 0.05 else { return [] }
        let colour = colours.first { $0.kinds.contains(action.kind) }!.colour
        let times = "\(time(timed.start - span.start)) to \(time(timed.end - span.start))"
        let tip = "<title>\(escaped("\(action): \(times)"))</title>"
        // Neighbours of the same kind must not run into each other.
        let gap = min(1, boxWidth / 10)
        var result = [rectangle(x, y + 2, boxWidth - gap, row - 4, colour, tip)]
        let label = action.chunk == 0 ? "\(action.microBatch)" : "\(action.microBatch).\(action.chunk)"
        if action.kind.isCompute, boxWidth > 7 * Double(label.count) + 2 {
            result.append(
                text(x + boxWidth / 2, y + row / 2 + 4, label, "text-anchor=\"middle\" pointer-events=\"none\""))
        }
        return result
    }

    private static func legend(at y: Double, _ body: inout [String]) -> Double {
        var x = left
        for entry in colours {
            body.append(rectangle(x, y, 12, 12, entry.colour))
            body.append(text(x + 16, y + 10, entry.name, ""))
            x += 34 + 6 * Double(entry.name.count)
        }
        return y + 12
    }

    /// Ticks at 1, 2 or 5 times a power of ten, at most 12 of them.
    private static func axis(at y: Double, _ end: Double, _ scale: Double, _ body: inout [String]) -> Double {
        let power = pow(10, (log10(end / 12)).rounded(.down))
        let step = [1, 2, 5, 10].map { $0 * power }.first { end / $0 <= 12 } ?? 10 * power
        body.append(
            "<path d=\"M\(number(left)) \(number(y))H\(number(left + end * scale))\" stroke=\"#444444\" fill=\"none\"/>"
        )
        for tick in 0...Int(end / step + 1e-9) {
            let x = left + Double(tick) * step * scale
            body.append("<path d=\"M\(number(x)) \(number(y))v4\" stroke=\"#444444\" fill=\"none\"/>")
            body.append(text(x, y + 16, time(Double(tick) * step), "text-anchor=\"middle\""))
        }
        return y + 26
    }

    // MARK: Elements

    private static func rectangle(
        _ x: Double, _ y: Double, _ width: Double, _ height: Double, _ colour: String, _ content: String = ""
    ) -> String {
        let head =
            "<rect x=\"\(number(x))\" y=\"\(number(y))\" width=\"\(number(width))\" height=\"\(number(height))\" "
            + "fill=\"\(colour)\""
        return content.isEmpty ? head + "/>" : head + ">\(content)</rect>"
    }

    private static func text(_ x: Double, _ y: Double, _ words: String, _ attributes: String) -> String {
        "<text x=\"\(number(x))\" y=\"\(number(y))\"\(attributes.isEmpty ? "" : " " + attributes)>\(escaped(words))</text>"
    }

    private static func number(_ value: Double) -> String {
        let rounded = (value * 100).rounded() / 100
        return rounded == rounded.rounded() ? "\(Int(rounded))" : "\(rounded)"
    }

    private static func percent(_ share: Double) -> String { "\(number((share * 1000).rounded() / 10)) %" }

    /// Seconds in the unit that suits them, to four digits.
    private static func time(_ seconds: Double) -> String {
        let (factor, unit) = seconds == 0 || seconds >= 1 ? (1, "s") : seconds >= 1e-3 ? (1e3, "ms") : (1e6, "µs")
        return String(format: "%.4g ", seconds * factor) + unit
    }

    private static func escaped(_ text: String) -> String {
        text.unicodeScalars.map { scalar in
            switch scalar {
            case "&": "&amp;"
            case "<": "&lt;"
            case ">": "&gt;"
            case "\"": "&quot;"
            case "\0"..<" ": " "
            default: String(scalar)
            }
        }.joined()
    }
}
