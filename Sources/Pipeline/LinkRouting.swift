import Models

/// Which links of a model stay inside a stage, and which become edges between stages.
public struct LinkRouting: Hashable, Sendable {
    /// Edges of the schedule, in the model's order; `Action.edge` counts them from 1.
    public let edges: [SkipEdge]
    /// Per link of the model, whether anything goes along it.
    let isUsed: [Bool]
    /// Per link of the model, its edge number; nil inside one stage, and where nothing goes along it.
    let edgeOfLink: [Int?]
    /// Per edge number less 1, the link.
    public let linkOfEdge: [Int]

    /// - Parameter unused: a port that nothing comes by.
    public init(_ links: [LayerLink], stageLayers: [Range<Int>], unused: LayerPort? = nil) {
        func stage(_ layer: Int) -> Int { stageLayers.firstIndex { $0.contains(layer) }! }
        var edges: [SkipEdge] = []
        var linkOfEdge: [Int] = []
        isUsed = links.map { $0.port != unused }
        edgeOfLink = links.enumerated().map { index, link in
            let (from, to) = (stage(link.from), stage(link.to))
            guard from != to, link.port != unused else { return nil }
            edges.append(SkipEdge(fromStage: from, toStage: to))
            linkOfEdge.append(index)
            return edges.count
        }
        self.edges = edges
        self.linkOfEdge = linkOfEdge
    }
}
