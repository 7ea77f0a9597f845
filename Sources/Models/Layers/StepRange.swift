import Autograd
import Glibc

/// The range from which a state space draws the lengths of its time steps, keys `dt_min` (1e-3) and `dt_max` (0.1).
struct StepRange {
    let smallest, largest: Double

    init(_ reader: ConfigurationReader) throws(ConfigurationError) {
        smallest = try reader.double("dt_min", default: 1e-3, above: 0)
        largest = try reader.double("dt_max", default: 0.1, above: 0)
        if largest < smallest { throw reader.error("dt_max", "\(largest) is below dt_min \(smallest)") }
    }

    /// The natural logarithm of log-uniform steps, for `count` rows.
    func logarithm(rows count: Int) -> Initializer {
        let (low, high) = (log(smallest), log(largest))
        return .shifted(
            base: .uniform(bound: Float((high - low) / 2)), rows: 0..<count, value: Float((low + high) / 2))
    }

    /// Biases whose softplus is a log-uniform step, but at least `floor`.
    func softplusBias(floor: Double = 0) -> Initializer {
        .stepBias(low: Float(smallest), high: Float(largest), floor: Float(floor))
    }
}
