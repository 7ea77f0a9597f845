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
    /// Lets the pass's only token leave out applications of a shared block.
    var exit: TokenExit?

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
    ///   - finish: takes what reaches the head.
    func run(
        _ input: Flow?, links: [Int: Variable], carry: [Int: Carry], embed: () throws -> Variable,
        finish: (Flow) throws -> Void
    ) rethrows -> Output {
        var output = Output(flow: input)
        // Links that begin and end in this stage, by their number in the model.
        var local: [Int: Variable] = [:]
        for index in layers {
            var flow = output.flow
            flow?.arriving = [:]
            flow?.exits = []
            for (number, link) in model.links.enumerated() where link.to == index && routing.isUsed[number] {
                let arrived = routing.edgeOfLink[number].map { links[$0]! } ?? local[number]!
                switch link.port {
                case .sum: flow!.activation = pass.tape.add(flow!.activation, arrived)
                case .exit: flow!.exits.append(arrived)
                default: flow!.arriving[link.port] = arrived
                }
            }
            if let flow { exit?.arrive(at: index, flow.activation.value) }
            switch model.layers[index] {
            case is EmbeddingLayer: output.flow = Flow(try embed())
            case is HeadLayer:
                try finish(flow!)
                output.flow = nil
            case let layer as any HiddenLayer:
                let past = carry[index] ?? []
                if let (next, carryOut) = exit?.passing(index, flow!, carry: past) {
                    output.flow = next
                    if let carryOut { output.carry[index] = carryOut }
                } else {
                    let (next, carryOut) = layer.forward(flow!, carry: past, pass)
                    exit?.keep(carryOut, of: index)
                    output.flow = next
                    output.carry[index] = carryOut
                }
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
            let links = model.links.indices.filter {
                model.links[$0].from == index && model.links[$0].port == port && routing.isUsed[$0]
            }
            guard !links.isEmpty else { continue }
            if port == .sum || port == .exit && flow!.leaving[port] == nil {
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
