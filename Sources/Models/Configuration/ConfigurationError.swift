/// A configuration that cannot be used. Every description says where, which key, what was expected, what
/// was found, and what to do about it.
public enum ConfigurationError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The file cannot be read at all.
    case unreadable(file: String, reason: String)
    /// The text is not well formed.
    case syntax(SourceLocation, String)
    /// `path` is the full path of the section that holds `key`, empty at the top level.
    case unknownKey(SourceLocation, key: String, path: String, nearest: String?, allowed: [String])
    /// The key exists, but the values of other keys leave it without effect.
    case unusedKey(SourceLocation, key: String, path: String)
    case missingKey(SourceLocation, key: String, path: String, expected: String)
    /// `key` is the full path of the value.
    case mismatch(SourceLocation, key: String, expected: String, found: String, nearest: String?)
    /// A value of the right type that makes no sense; the message says why.
    case invalid(SourceLocation, key: String, message: String)
    /// An override on the command line that cannot be applied.
    case badOverride(String, reason: String)

    public var description: String {
        switch self {
        case .unreadable(let file, let reason):
            return "\(file): \(reason)"
        case .syntax(let location, let message):
            return "\(location): \(message)"
        case .unknownKey(let location, let key, let path, let nearest, let allowed):
            var text = "\(location): unknown key '\(key)' \(Self.place(path))"
            if let nearest { text += "; did you mean '\(nearest)'?" } else { text += ";" }
            return text
                + (allowed.isEmpty ? " no keys are allowed here" : " allowed: \(allowed.joined(separator: ", "))")
        case .unusedKey(let location, let key, let path):
            return "\(location): key '\(key)' \(Self.place(path)) has no effect with the other settings given;"
                + " remove it, or change the setting that disables it"
        case .missingKey(let location, let key, let path, let expected):
            return
                "\(location): missing key '\(key)' \(Self.place(path)); expected \(expected); add '\(key): ...' there"
        case .mismatch(let location, let key, let expected, let found, let nearest):
            let text = "\(location): '\(key)' must be \(expected); found \(found)"
            return nearest.map { text + "; did you mean '\($0)'?" } ?? text
        case .invalid(let location, let key, let message):
            return "\(location): '\(key)': \(message)"
        case .badOverride(let text, let reason):
            return "command line override '\(text)': \(reason)"
        }
    }

    private static func place(_ path: String) -> String { path.isEmpty ? "at the top level" : "in '\(path)'" }
}

/// Finds the key or value that was probably meant.
enum NearestName {
    /// The candidate closest to `word`, or nil when none is close enough to be worth suggesting.
    ///
    /// Two measures, the better one counts: the edit distance with transpositions relative to the longer
    /// word, and the share of words between underscores that agree once the field's usual abbreviations
    /// are spelled as this project spells them (`n_head` and `head_count` agree fully).
    static func of(_ word: String, in candidates: [String]) -> String? {
        var best: (name: String, score: Double)?
        for candidate in candidates where candidate != word {
            let longest = Double(max(word.count, candidate.count, 1))
            let spelling = 1 - Double(distance(Array(word.lowercased()), Array(candidate.lowercased()))) / longest
            let score = max(spelling, agreement(terms(of: word), terms(of: candidate)))
            if score >= 0.55, score > best?.score ?? 0 { best = (candidate, score) }
        }
        return best?.name
    }

    private static func agreement(_ a: Set<String>, _ b: Set<String>) -> Double {
        Double(a.intersection(b).count) / Double(max(a.union(b).count, 1))
    }

    private static func terms(of name: String) -> Set<String> {
        let synonyms = [
            "n": "count", "num": "count", "number": "count", "nr": "count", "dim": "width", "hidden": "width",
            "size": "width", "lr": "learning_rate", "bs": "batch", "len": "length", "vocab": "vocabulary",
            "max": "maximum", "min": "minimum", "eps": "epsilon", "wd": "weight_decay", "iters": "step",
        ]
        return Set(
            name.lowercased().replacing("-", with: "_").split(separator: "_").map { part in
                let singular = part.count > 3 && part.hasSuffix("s") && !part.hasSuffix("ss") ? part.dropLast() : part
                return synonyms[String(part)] ?? synonyms[String(singular)] ?? String(singular)
            })
    }

    /// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
    private static func distance(_ a: [Character], _ b: [Character]) -> Int {
        var rows = [Array(0...b.count)]
        for i in 0..<a.count {
            var row = [i + 1]
            for j in 0..<b.count {
                var cost = min(rows[i][j + 1] + 1, row[j] + 1, rows[i][j] + (a[i] == b[j] ? 0 : 1))
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { cost = min(cost, rows[i - 1][j - 1] + 1) }
                row.append(cost)
            }
            rows.append(row)
        }
        return rows[a.count][b.count]
    }
}
