import Models

/// Which skips of a model stay inside a stage, and which become edges between stages.
public struct SkipRouting: Hashable, Sendable {
    /// Edges of the schedule, in the model's order; `Action.edge` counts them from 1.
    public let edges: [SkipEdge]
    /// Per skip of the model, its edge number; nil inside one stage.
    let edgeOfSkip: [Int?]
    /// Per edge number less 1, the skip.
    let skipOfEdge: [Int]

    public init(_ skips: [LayerSkip], stageLayers: [Range<Int>]) {
        func stage(_ layer: Int) -> Int { stageLayers.firstIndex { $0.contains(layer) }! }
        var edges: [SkipEdge] = []
        var skipOfEdge: [Int] = []
        edgeOfSkip = skips.enumerated().map { index, skip in
            let (from, to) = (stage(skip.from), stage(skip.to))
            guard from != to else { return nil }
            edges.append(SkipEdge(fromStage: from, toStage: to))
            skipOfEdge.append(index)
            return edges.count
        }
        self.edges = edges
        self.skipOfEdge = skipOfEdge
    }
}
