import Models

/// Which links of a model stay inside a stage, and which become edges between stages.
public struct LinkRouting: Hashable, Sendable {
    /// Edges of the schedule, in the model's order; `Action.edge` counts them from 1.
    public let edges: [SkipEdge]
    /// Per link of the model, its edge number; nil inside one stage.
    let edgeOfLink: [Int?]
    /// Per edge number less 1, the link.
    public let linkOfEdge: [Int]

    public init(_ links: [LayerLink], stageLayers: [Range<Int>]) {
        func stage(_ layer: Int) -> Int { stageLayers.firstIndex { $0.contains(layer) }! }
        var edges: [SkipEdge] = []
        var linkOfEdge: [Int] = []
        edgeOfLink = links.enumerated().map { index, link in
            let (from, to) = (stage(link.from), stage(link.to))
            guard from != to else { return nil }
            edges.append(SkipEdge(fromStage: from, toStage: to))
            linkOfEdge.append(index)
            return edges.count
        }
        self.edges = edges
        self.linkOfEdge = linkOfEdge
    }
}
