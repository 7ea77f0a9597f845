import Autograd
import Kernels
import Models
import Tensors

/// Runs the layers of one stage on one unit of work: what training, evaluation and generation have in common.
struct StagePass {
    let model: Model
    let routing: LinkRouting
    let layers: Range<Int>
    let pass: Pass

    /// What leaves the stage.
    struct Output {
        /// Nil after the head.
        var flow: Flow?
        /// By edge.
        var links: [Int: Variable] = [:]
        /// By layer.
        var carry: [Int: Carry] = [:]
    }

    /// - Parameters:
    ///   - input: nil in the first stage.
    ///   - links: what came from other stages, by edge.
    ///   - carry: by layer.
    ///   - embed: makes the first activation.
    ///   - finish: takes the last one.
    func run(
        _ input: Flow?, links: [Int: Variable], carry: [Int: Carry], embed: () throws -> Variable,
        finish: (Variable) throws -> Void
    ) rethrows -> Output {
        var output = Output(flow: input)
        // Links that begin and end in this stage, by their number in the model.
        var local: [Int: Variable] = [:]
        for index in layers {
            var flow = output.flow
            flow?.arriving = [:]
            for (number, link) in model.links.enumerated() where link.to == index {
                let arrived = routing.edgeOfLink[number].map { links[$0]! } ?? local[number]!
                if link.port == .sum {
                    flow!.activation = pass.tape.add(flow!.activation, arrived)
                } else {
                    flow!.arriving[link.port] = arrived
                }
            }
            switch model.layers[index] {
            case is EmbeddingLayer: output.flow = Flow(try embed())
            case is HeadLayer:
                try finish(flow!.activation)
                output.flow = nil
            case let layer as any HiddenLayer:
                let (next, carryOut) = layer.forward(flow!, carry: carry[index] ?? [], pass)
                output.flow = next
                output.carry[index] = carryOut
            default: fatalError("StagePass: layer \(model.layers[index].name) has no way to run")
            }
            for (number, copy) in leaving(index, &output.flow) {
                if let edge = routing.edgeOfLink[number] { output.links[edge] = copy } else { local[number] = copy }
            }
        }
        return output
    }

    /// One copy for every link that begins at a layer. Its gradients are each complete before they are added, so that
    /// the sum has the same bits wherever the links end.
    private func leaving(_ index: Int, _ flow: inout Flow?) -> [(link: Int, copy: Variable)] {
        var result: [(link: Int, copy: Variable)] = []
        for port in LayerPort.allCases {
            let links = model.links.indices.filter { model.links[$0].from == index && model.links[$0].port == port }
            guard !links.isEmpty else { continue }
            if port == .sum {
                let copies = pass.tape.copies(flow!.activation, count: 1 + links.count)
                flow!.activation = copies[0]
                result += zip(links, copies.dropFirst()).map { ($0, $1) }
            } else {
                guard let value = flow!.leaving[port] else {
                    fatalError("StagePass: layer \(model.layers[index].name) has nothing for port \(port)")
                }
                result += zip(links, pass.tape.copies(value, count: links.count)).map { ($0, $1) }
            }
        }
        flow?.leaving = [:]
        return result
    }
}
