import Autograd
import Models
import Tensors

/// The table that `seqtrain describe` prints.
enum ModelDescription {
    static func table(_ model: Model, time: Int) -> String {
        var rows = [["#", "layer", "width", "parameters", "MFLOP/token", "saved floats/token"]]
        for (index, layer) in model.layers.enumerated() {
            let owned = layer.uses.filter { $0.index == 0 }.reduce(0) { $0 + $1.parameter.shape.count }
            rows.append([
                "\(index)", layer.name, "\(layer.outputWidth)", grouped(owned),
                fixed(layer.forwardFLOPsPerToken(time: time) / 1e6, 3), grouped(layer.savedPerToken),
            ])
            for use in layer.uses {
                let tied = use.index != 0 ? " (tied)" : ""
                rows.append(["", "  " + use.parameter.name + tied, "\(use.shape)", grouped(use.shape.count), "", ""])
            }
        }
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max()! }
        let lines = rows.map { row in
            row.enumerated().map { column, text in
                let padding = String(repeating: " ", count: widths[column] - text.count)
                return column <= 1 ? text + padding : padding + text
            }.joined(separator: "  ")
        }
        let training = model.trainingFLOPsPerToken(time: time)
        return
            (lines + [
                "",
                "\(grouped(model.registry.elementCount)) parameters, vocabulary \(model.vocabularySize); "
                    + "forward + backward \(fixed(training / 1e6, 3)) MFLOP per token at sequence length \(time)",
            ]).joined(separator: "\n")
    }

    static func grouped(_ number: Int) -> String {
        var digits = String(number)
        var groups: [String] = []
        while digits.count > 3 {
            groups.insert(String(digits.suffix(3)), at: 0)
            digits.removeLast(3)
        }
        return ([digits] + groups).joined(separator: ",")
    }

    static func fixed(_ value: Double, _ digits: Int) -> String {
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let scaled = Int((value * scale).rounded())
        let (whole, part) = scaled.quotientAndRemainder(dividingBy: Int(scale))
        guard digits > 0 else { return "\(whole)" }
        let text = String(part)
        return "\(whole)." + String(repeating: "0", count: digits - text.count) + text
    }

    static func bytes(_ count: Int) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var value = Double(count)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return unit == 0 ? "\(count) B" : "\(fixed(value, 1)) \(units[unit])"
    }
}
