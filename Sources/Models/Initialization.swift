import Autograd

/// How the matrices of a model are drawn before step 1, where a mixer does not say otherwise.
public enum Initialization: String, CaseIterable, Sendable {
    /// N(0, initializer_range²).
    case normal
    /// Matrices U(±√(6 / (in + out))), the embedding N(0, 1 / D): the Universal Transformer's code (arXiv 1807.03819).
    case glorotUniform = "glorot_uniform"
    /// Normal with deviation √(2 / 5D), cut off at three deviations; for the projections that end the halves of a block
    /// divided by √(2 · depth) (arXiv 2312.16903, as in arXiv 2502.05171).
    case takase
}

extension LayerDefaults {
    /// The matrices that end a half of a block, by the last part of their names.
    private static let outputProjections: Set = ["o_proj", "out_proj", "down_proj"]

    func matrixInitializer(_ name: String, rows: Int, columns: Int) -> Initializer {
        switch initialization {
        case .normal: return .normal(standardDeviation: Float(initializerRange))
        case .glorotUniform: return .uniform(bound: (6 / Float(rows + columns)).squareRoot())
        case .takase:
            let part = name.split(separator: ".").dropLast().last.map(String.init) ?? ""
            let isOutput = Self.outputProjections.contains(part)
            let factor = isOutput ? 1 / Double(2 * depth).squareRoot() : 1
            return .truncatedNormal(standardDeviation: Float(factor * takaseDeviation))
        }
    }

    /// Of the embedding.
    var embeddingInitializer: Initializer {
        switch initialization {
        case .normal: .normal(standardDeviation: Float(initializerRange))
        case .glorotUniform: .normal(standardDeviation: 1 / Float(modelWidth).squareRoot())
        case .takase: .truncatedNormal(standardDeviation: Float(takaseDeviation))
        }
    }

    private var takaseDeviation: Double { (2 / (5 * Double(modelWidth))).squareRoot() }
}
