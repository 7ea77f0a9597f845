import Glibc
import Kernels

/// Monte-Carlo tree search over the chains of layers for one sequence (arXiv 2507.07996; the numbers it leaves open are
/// ours).
///
/// A node is a chain. An action skips up to four consecutive layers of it, or repeats them up to four more times. The
/// search goes down the tree by upper confidence bounds (UCT), grows a node while it has fewer than `2√visits` children,
/// and adds what the new chain is worth, less a price for its length, to all nodes above.
struct PathTree {
    private struct Node {
        let path: [Int]
        let parent: Int?
        var children: [Int] = []
        var visits = 0
        /// Sum over visits.
        var value = 0.0
    }

    private let options: DepthSearch.Options
    private let depth: Int
    private let stream: PhiloxStream
    private var nodes: [Node]
    private var drawCount = 0
    /// The node whose chain is being scored.
    private var current = 0

    /// - Parameters:
    ///   - depth: layers of the model; the chain of all of them is the root.
    ///   - stream: of the random choices.
    init(depth: Int, options: DepthSearch.Options, stream: PhiloxStream) {
        self.options = options
        self.depth = depth
        self.stream = stream
        nodes = [Node(path: Array(0..<depth), parent: nil)]
    }

    /// The chain to score next; the first is that of the root.
    mutating func next() -> [Int] {
        current = 0
        while nodes[current].visits > 0 {
            let node = nodes[current]
            if Double(node.children.count) < 2 * Double(node.visits).squareRoot(), let path = changed(node.path) {
                if let child = node.children.first(where: { nodes[$0].path == path }) {
                    current = child
                } else {
                    nodes.append(Node(path: path, parent: current))
                    nodes[current].children.append(nodes.count - 1)
                    current = nodes.count - 1
                }
            } else if let child = node.children.max(by: { bound($0) < bound($1) }) {
                current = child
            } else {
                break
            }
        }
        return nodes[current].path
    }

    /// - Parameter reward: of the chain that `next()` gave, 0 to 1.
    mutating func record(_ reward: Double) {
        let value = reward - options.lengthPenalty * Double(nodes[current].path.count) / Double(depth)
        var index: Int? = current
        while let node = index {
            nodes[node].visits += 1
            nodes[node].value += value
            index = nodes[node].parent
        }
    }

    private func bound(_ index: Int) -> Double {
        let node = nodes[index]
        let visits = Double(node.visits)
        return node.value / visits
            + options.exploration * (log(Double(nodes[node.parent!].visits)) / visits).squareRoot()
    }

    /// A random action on a chain; nil when a few draws have found none that is allowed.
    private mutating func changed(_ path: [Int]) -> [Int]? {
        for _ in 0..<16 {
            let length = 1 + draw(min(DepthSearch.longestSegment, path.count))
            let start = draw(path.count - length + 1)
            let repeats = draw(2) == 0 ? 0 : 1 + draw(DepthSearch.mostRepeats)
            let segment = path[start..<start + length]
            let changed =
                path[..<start] + (repeats == 0 ? [] : (0...repeats).flatMap { _ in segment })
                + path[(start + length)...]
            if !changed.isEmpty, changed.count <= options.longestPath(depth) { return Array(changed) }
        }
        return nil
    }

    private mutating func draw(_ count: Int) -> Int {
        defer { drawCount += 1 }
        return Int(Philox.words(stream, first: drawCount, count: 1)[0] % UInt32(count))
    }
}
