import Models

/// A layout that a search found, as a file that `--plan` takes: the `parallel` keys of the choice, which stand above
/// the configuration's own and below overrides on the command line.
enum PlanFile {
    static func text(_ choice: Planner.Choice, run: RunConfiguration) -> String {
        let predicted = [
            "predicted: \(ModelDescription.fixed(1e3 * choice.stepSeconds, 1)) ms per step, bubble "
                + "\(ModelDescription.fixed(100 * choice.bubble, 1)) %, peak \(ModelDescription.bytes(choice.peakBytes)) per rank",
            "for batch_size \(run.train.batchSize), sequence_length \(run.train.sequenceLength)",
        ]
        return predicted.map { "# \($0)\n" }.joined() + "parallel:\n"
            + choice.keys.map { "  \($0.key): \($0.value)\n" }.joined()
    }

    /// The configuration with the file's keys in its `parallel` section.
    ///
    /// - Throws: when the file cannot be read or holds anything but a `parallel` section.
    static func apply(
        _ path: String, to configuration: ConfigurationNode
    ) throws(ConfigurationError) -> ConfigurationNode {
        let node = try YAMLConfiguration.load(path)
        guard case .mapping(let sections) = node.content, sections.count == 1, sections[0].key == "parallel",
            case .mapping(let planned) = sections[0].value.content, case .mapping(var root) = configuration.content
        else {
            throw .syntax(node.location, "a plan file holds one section, 'parallel'; 'seqtrain plan --out' writes one")
        }
        var own: [ConfigurationNode.Entry] = []
        let place = root.firstIndex { $0.key == "parallel" }
        if let place, case .mapping(let entries) = root[place].value.content { own = entries }
        own.removeAll { entry in planned.contains { $0.key == entry.key } || entry.key == "auto" }
        let merged = ConfigurationNode(.mapping(own + planned), at: sections[0].value.location)
        if let place {
            root[place].value = merged
        } else {
            root.append(.init(key: "parallel", keyLocation: sections[0].keyLocation, value: merged))
        }
        return ConfigurationNode(.mapping(root), at: configuration.location)
    }
}
