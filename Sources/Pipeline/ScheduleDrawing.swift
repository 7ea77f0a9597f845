/// Draws a simulated step as text: a row per rank, a column per unit of time.
///
///     rank 0  F0 F1 .  .  B0 B1
///     rank 1  .  F0 F1 B0 B1 .
///
/// A cell holds what the rank begins in that column, `-` while it goes on, `.` when idle; `F3.1` is micro-batch 3,
/// chunk 1. Reductions and steps are left out. When several actions begin in one column the last is shown.
public enum ScheduleDrawing {
    /// - Parameters:
    ///   - schedule: gives the number of chunks.
    ///   - simulation: made with a timeline.
    ///   - column: seconds per column; nil takes the shortest compute action.
    ///   - maximumColumns: the drawing is cut there and marked with `…`.
    public static func text(
        _ schedule: Schedule, _ simulation: Simulation, column: Double? = nil, maximumColumns: Int = 200
    ) -> String {
        let timelines = simulation.timeline.map { $0.filter { $0.action.kind.isCompute && $0.end > $0.start } }
        guard let shortest = timelines.joined().map({ $0.end - $0.start }).min() else { return "" }
        let width = column ?? shortest
        let end = timelines.joined().map(\.end).max() ?? 0
        // A hair of tolerance, so that sums of equal durations fall on column boundaries.
        let columnCount = Int((end / width - 1e-6).rounded(.up))
        let shown = min(columnCount, maximumColumns)
        var rows = timelines.map { timeline in
            var cells = [String](repeating: ".", count: shown)
            for timed in timeline {
                let first = Int(timed.start / width + 1e-6)
                let last = max(first, Int((timed.end / width - 1e-6).rounded(.up)) - 1)
                guard first < shown else { break }
                for cell in first...min(last, shown - 1) { cells[cell] = "-" }
                cells[first] = label(timed.action, schedule.shape)
            }
            return cells
        }
        let cellWidth = rows.joined().map(\.count).max() ?? 1
        let nameWidth = "rank \(rows.count - 1)".count
        for row in rows.indices {
            rows[row] = rows[row].map { padded($0, cellWidth) }
            if shown < columnCount { rows[row].append("…") }
        }
        return rows.enumerated().map { rank, cells in
            let line = padded("rank \(rank)", nameWidth) + "  " + cells.joined(separator: " ")
            return String(line.reversed().drop { $0 == " " }.reversed())
        }.joined(separator: "\n") + "\n"
    }

    private static func label(_ action: Action, _ shape: ScheduleShape) -> String {
        var text = "\(action.kind.text)\(action.microBatch)"
        if shape.chunkCount > 1 { text += ".\(action.chunk)" }
        return text
    }

    private static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
}
