import Autograd
import Foundation
import Models
import Pipeline
import Tensors

/// The state that streams hand from batch to batch, in the form that files keep: one tensor per layer
/// and name, all rows of the batch together, so that it does not depend on micro-batches or ranks.
///
/// A tensor is `[L, B, H]`, the `L` layers of a recurrent stack being gathered under the name of its
/// specification (`h` for `h_l0`, `h_l1`, ...).
struct StreamState {
    /// In order of layer and name: `carry.<number of the block as applied>.<name>`.
    let tensors: [(layer: Int, name: String, tensor: Tensor)]

    /// What one rank's runtime holds now, with the rows of all replicas in replica 0; the others end up with nothing.
    /// Collective over the replicas of a rank.
    static func collect(_ session: Session) throws -> StreamState {
        let cut = session.plan.cut
        var tensors: [(layer: Int, name: String, tensor: Tensor)] = []
        for layer in session.ownedLayers {
            let parts = (0..<cut.microBatchCount).compactMap {
                session.runtime.batchCarry[.init(microBatch: $0, layer: layer)]
            }
            guard parts.count == cut.microBatchCount, let first = parts.first else { continue }
            for base in baseNames(first) {
                let members = first.indices.filter { baseName(first[$0].name) == base }
                let width = first[members[0]].variable.value.count / cut.rows(ofMicroBatch: 0).count
                let whole = session.context.tensor(Shape(members.count, cut.rows, width))
                for (l, member) in members.enumerated() {
                    for (m, part) in parts.enumerated() {
                        let source = part[member].variable.value
                        (whole.pointer + (l * cut.rows + cut.rows(ofMicroBatch: m).lowerBound) * width)
                            .update(from: source.pointer, count: source.count)
                    }
                }
                for l in members.indices {
                    let start = whole.pointer + l * cut.rows * width
                    try session.exchange?.collect(rows: cut, width: width, at: start)
                }
                guard session.share.replica == 0 else { continue }
                tensors.append((layer, "carry.\(session.model.blockNumber(ofLayer: layer)).\(base)", whole))
            }
        }
        return StreamState(tensors: tensors)
    }

    /// Cuts saved tensors up again and hands them to the runtime.
    ///
    /// - Parameter read: the tensor of a name, `[L, B, H]`, or nil when the file has none.
    static func install(_ session: Session, read: (String) throws -> Tensor?) rethrows {
        let cut = session.plan.cut
        var carry: [StageRuntime.CarryKey: Carry] = [:]
        for layer in session.ownedLayers {
            guard let block = session.model.layers[layer] as? Block else { continue }
            for base in block.mixer.streamStateNames {
                guard let whole = try read("carry.\(session.model.blockNumber(ofLayer: layer)).\(base)") else {
                    continue
                }
                let (count, width) = (whole.shape[0], whole.width)
                for l in 0..<count {
                    for m in 0..<cut.microBatchCount {
                        let rows = cut.rows(ofMicroBatch: m)
                        let part = session.context.tensor(Shape(rows.count, width))
                        part.copy(
                            from: whole.pointer + (l * cut.rows + rows.lowerBound) * width, count: part.count)
                        let name = count > 1 ? "\(base)_l\(l)" : base
                        carry[.init(microBatch: m, layer: layer), default: []].append(
                            CarryTensor(name: name, variable: Variable(part)))
                    }
                }
            }
        }
        session.runtime.restoreBatchCarry(carry)
    }

    private static func baseName(_ name: String) -> String {
        guard let range = name.range(of: "_l", options: .backwards), Int(name[range.upperBound...]) != nil else {
            return name
        }
        return String(name[..<range.lowerBound])
    }

    private static func baseNames(_ carry: Carry) -> [String] {
        var names: [String] = []
        for tensor in carry {
            let base = baseName(tensor.name)
            if !names.contains(base) { names.append(base) }
        }
        return names
    }
}

extension ReplicaExchange {
    /// Brings the rows of all replicas to replica 0. Collective over the replicas of a rank.
    ///
    /// - Parameter tensor: `[B, width]`; each replica has its own rows.
    func collect(rows cut: BatchCut, width: Int, at tensor: UnsafeMutablePointer<Float>) throws {
        let own = tensor + cut.rows(of: share).lowerBound * width
        try collect(own, into: tensor) { share in
            let rows = cut.rows(of: share)
            return rows.lowerBound * width..<rows.upperBound * width
        }
    }
}
