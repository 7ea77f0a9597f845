/// What the ranks of a job that ended badly said, and which of them brought it down.
///
/// A rank that has died or hangs cannot speak, so the others' waits are followed to the rank at their end: a job of a
/// thousand ranks that all wait then names the one that does not answer.
public struct PostMortem: Sendable {
    public let rankCount: Int
    /// Seconds that ranks were given to report.
    public let grace: Double
    /// At most one per rank, in order of ranks.
    public private(set) var reports: [RankReport] = []

    init(rankCount: Int, grace: Double) {
        self.rankCount = rankCount
        self.grace = grace
    }

    mutating func add(_ report: RankReport) {
        guard self[report.rank] == nil else { return }
        reports.append(report)
        reports.sort { $0.rank < $1.rank }
    }

    var isComplete: Bool { reports.count == rankCount }

    subscript(rank: Int) -> RankReport? { reports.first { $0.rank == rank } }

    /// The ranks that said nothing.
    public var silentRanks: [Int] { (0..<rankCount).filter { self[$0] == nil } }

    /// The rank whose report ended the job; the lowest, when several did so at the same time.
    var origin: RankReport? { reports.first { $0.origin == $0.rank && $0.state != .ended } }

    /// Why the job ended.
    public enum Cause: Equatable, Sendable {
        /// They threw errors of their own.
        case failed([Int])
        /// They do not answer.
        case silent([Int])
        /// Alive, but others waited for it beyond their deadline.
        case slow(Int)
        /// Its part ended without the message that another waited for.
        case ended(Int)
        /// Each waits for the next one, the last for the first.
        case deadlock([Int])

        /// The ranks to blame.
        public var ranks: [Int] {
            switch self {
            case .failed(let ranks), .silent(let ranks), .deadlock(let ranks): ranks
            case .slow(let rank), .ended(let rank): [rank]
            }
        }
    }

    public var cause: Cause { resolved.cause }

    /// The cause, and the chain of waits that leads to it.
    private var resolved: (cause: Cause, chain: [Int]) {
        let failed = reports.filter { $0.state == .failed }.map(\.rank)
        guard failed.isEmpty, let origin else { return (.failed(failed), []) }
        var chain = [origin.rank]
        while true {
            let last = chain[chain.count - 1]
            guard let report = self[last] else { return (.silent([last]), chain) }
            guard let peer = report.peer else { return (report.state == .ended ? .ended(last) : .slow(last), chain) }
            if let start = chain.firstIndex(of: peer) {
                // A rank in a circle may also wait for one that does not answer.
                return silentRanks.isEmpty ? (.deadlock(Array(chain[start...])), []) : (.silent(silentRanks), [])
            }
            chain.append(peer)
        }
    }

    /// One line that names the culprit.
    public var conclusion: String {
        let (cause, chain) = resolved
        var text = "cause: \(Self.list(cause.ranks))"
        let plural = cause.ranks.count > 1
        switch cause {
        case .failed:
            text += " failed as reported above"
            if !silentRanks.isEmpty { text += "; \(Self.list(silentRanks)) did not report" }
        case .silent:
            let seconds = (grace * 100).rounded() / 100
            text += " did not report within \(seconds) s, so \(plural ? "they have" : "it has") died, "
            text += plural ? "hang, or compute" : "hangs, or computes"
            text += " longer than the deadline"
        case .slow: text += " is alive, but took longer than the deadline"
        case .ended: text += " ended without answering"
        case .deadlock: text += " wait for each other in a circle; their lists of actions do not fit together"
        }
        if chain.count > 1 {
            text += " ("
            text +=
                zip(chain, chain.dropFirst()).map { "rank \($0) waits for rank \($1)" }.joined(separator: ", ") + ")"
        }
        return text
    }

    private static func list(_ ranks: [Int]) -> String {
        guard let last = ranks.last else { return "no rank" }
        guard ranks.count > 1 else { return "rank \(last)" }
        return "ranks " + ranks.dropLast().map { "\($0)" }.joined(separator: ", ") + " and \(last)"
    }
}

extension PostMortem: CustomStringConvertible {
    /// A line per rank that reported, and the conclusion.
    public var description: String { (reports.map(\.text) + [conclusion]).joined(separator: "\n") }
}
