/// An amount of memory as people write it: `8GiB`, `512MiB`, `1.5GiB`, or a plain number of bytes.
public struct ByteCount: Sendable, Equatable {
    public let bytes: Int

    /// Nil when the text is not a positive amount.
    public init?(_ text: String) {
        let units: [(String, Double)] = [("GiB", 1_073_741_824), ("MiB", 1_048_576), ("KiB", 1024), ("", 1)]
        for (suffix, factor) in units where text.hasSuffix(suffix) {
            if let number = Double(text.dropLast(suffix.count)), number > 0, number * factor < 1e18 {
                bytes = Int(number * factor)
                return
            }
        }
        return nil
    }
}
