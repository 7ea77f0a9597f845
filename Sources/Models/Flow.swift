import Autograd
import Kernels

/// What travels from layer to layer: an activation, the tokens that its rows stand for, and what goes past the layers
/// between.
public struct Flow {
    /// `[B·T, D]`, or `[B·A, D]` with a selection of `A` tokens of each sequence.
    public var activation: Variable
    /// Nil: every token of the chunk.
    public var selection: TokenSelection?
    /// What came along links, by port.
    public var arriving: [LayerPort: Variable]
    /// What came along links of port `exit`, in their order.
    public var exits: [Variable] = []
    /// What leaves along links, by port.
    public var leaving: [LayerPort: Variable] = [:]

    public init(
        _ activation: Variable, selection: TokenSelection? = nil, arriving: [LayerPort: Variable] = [:]
    ) {
        self.activation = activation
        self.selection = selection
        self.arriving = arriving
    }
}

/// The tokens that a compact activation stands for: the same number of rows for every sequence of the micro-batch,
/// shorter ones padded at their end.
public struct TokenSelection: Sendable, Equatable {
    /// Rows of each sequence (`A`).
    public let time: Int
    /// `[B·A]`: row of the token in the whole activation, ascending within a sequence; −1 for padding.
    public let rows: [Int32]

    /// - Precondition: a whole number of rows for each of `batch` sequences.
    public init(rows: [Int32], batch: Int) {
        require(rows.count % batch == 0, "TokenSelection: got \(rows.count) rows for \(batch) sequences")
        time = rows.count / batch
        self.rows = rows
    }

    /// The rows that `isChosen` marks of `candidates`, as many for each sequence as the one with most has.
    init(_ candidates: [Int32], where isChosen: [Bool], batch: Int) {
        let length = candidates.count / batch
        let sequences = (0..<batch).map { b in
            (b * length..<(b + 1) * length).filter { isChosen[$0] }.map { candidates[$0] }
        }
        let time = sequences.map(\.count).max() ?? 0
        self.init(rows: sequences.flatMap { $0 + Array(repeating: -1, count: time - $0.count) }, batch: batch)
    }

    /// `[B·A]`: position of each token in its sequence; padding repeats the one before it.
    ///
    /// - Parameter pass: of the whole activation.
    public func positions(in pass: Pass) -> [Int32] {
        var last = Int32(pass.positionOffset)
        return rows.enumerated().map { index, row in
            if index % time == 0 { last = Int32(pass.positionOffset) }
            if row >= 0 { last = Int32(pass.positionOffset) + row % Int32(pass.time) }
            return last
        }
    }
}

/// Which of a layer's inputs or outputs a link carries.
public enum LayerPort: String, CaseIterable, Sendable {
    /// A layer's whole output, added to a later layer's input.
    case sum
    /// The residual stream of all tokens, which stays behind while some go through a shared block.
    case residual
    /// Weights of the router for all tokens, and what it remembers of its choice.
    case gates
    /// Keys and values of the first recursion, after rotation.
    case keys, values
    /// The embedded input that every recursion sees again.
    case injection
    /// The same for recursions that run forward only, as a constant.
    case constantInjection
    /// What adaptive computation time has gathered for each token.
    case halting
    /// The state after a recursion, or what layers before the head have made of it, on its way to a loss of its own. What a
    /// layer does not name is its whole output.
    case exit
}

/// A connection past the layers between: what leaves layer `from` by a port enters layer `to` by the same.
///
/// Layers count as the pipeline cuts them: 0 the embedding, then the hidden layers, last the head.
public struct LayerLink: Hashable, Sendable {
    /// How many rows it carries for each sequence.
    public enum Extent: Hashable, Sendable {
        /// The tokens of the chunk.
        case chunk
        /// All tokens up to the end of the chunk, or as many as the chunk's first one sees before itself.
        case history(window: Int?)
    }

    public let from: Int
    public let to: Int
    public let port: LayerPort
    /// Floats per row.
    public let width: Int
    public let extent: Extent

    public init(from: Int, to: Int, port: LayerPort, width: Int, extent: Extent = .chunk) {
        self.from = from
        self.to = to
        self.port = port
        self.width = width
        self.extent = extent
    }

    /// Rows of a unit's message.
    public func rows(batch: Int, time: Int, positionOffset: Int) -> Int {
        switch extent {
        case .chunk: batch * time
        case .history(let window): batch * (min(positionOffset, window.map { $0 - 1 } ?? positionOffset) + time)
        }
    }
}

extension LayerLink {
    /// Reads `model.skips`, a list of `{from: 1, to: 6}` (long skips as in U-Net, arXiv 1505.04597, by addition).
    ///
    /// - Parameter layers: all but the head.
    static func readSkips(
        _ reader: ConfigurationReader, layers: [any ModelLayer]
    ) throws(ConfigurationError) -> [LayerLink] {
        var skips: [LayerLink] = []
        let widths = layers.map(\.outputWidth)
        for entry in try reader.sections("skips") {
            let from = try entry.int("from", default: nil, in: 0...layers.count)
            let to = try entry.int("to", default: nil, in: 0...layers.count)
            try entry.finish()
            if to < from + 2 {
                throw entry.error(
                    "to", "layer \(to) does not lie past a layer after \(from); use \(from + 2) to \(widths.count)")
            }
            if widths[from] != widths[to - 1] {
                throw entry.error(
                    "to",
                    "layer \(to) takes width \(widths[to - 1]), layer \(from) gives \(widths[from]); a skip joins equal widths"
                )
            }
            for (key, layer) in [("from", from), ("to", to - 1)] where layers[layer].routesTokens {
                throw entry.error(
                    key,
                    "layer \(key == "from" ? from : to) is among those that only some tokens come to; join layers outside"
                )
            }
            let skip = LayerLink(from: from, to: to, port: .sum, width: widths[from])
            if skips.contains(skip) { throw entry.error("to", "this skip stands in the list already") }
            skips.append(skip)
        }
        return skips
    }

    /// Each may become an edge between stages, and actions number those in sixteen bits.
    static let countLimit = 65_535
}
