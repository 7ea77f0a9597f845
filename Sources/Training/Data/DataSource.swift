public import Models

/// The `data` section: text and token files, or with `task: NAME` a generated task (`TaskConfiguration`).
public enum DataSource: Sendable {
    case files(DataConfiguration)
    case task(TaskConfiguration)

    /// Whether a target shows in the inputs after it.
    var showsTargets: Bool {
        switch self {
        case .files: true
        case .task(let configuration): type(of: configuration.task).showsTargets
        }
    }

    /// - Parameter directory: that of the configuration file.
    public init(
        _ reader: ConfigurationReader, directory: String, batchSize: Int, sequenceLength: Int
    ) throws(ConfigurationError) {
        if reader.has("task") {
            self = .task(try TaskConfiguration(reader, batchSize: batchSize, sequenceLength: sequenceLength))
        } else {
            self = .files(
                try DataConfiguration(
                    reader, directory: directory, batchSize: batchSize, sequenceLength: sequenceLength))
        }
    }
}
